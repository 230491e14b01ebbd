//! Reading a JSON object member by member, noting each violation in the words of Everit's validator.
//!
//! The cloud runs the Java library *Everit JSON Schema* before the model sees a body, and clients match on its texts:
//! `#/steps: 5 is not greater or equal to 10`. One object's violations come in the validator's order: missing keys,
//! unknown keys, then values in the order in which they are read here.
//!
//! Errors: readers answer `None` both for an absent member and for a wrong one; [`Members::finish`] tells which.
//! Source: texts reported by users of the service, and the templates of everit-org/json-schema.

use serde_json::{Map, Number, Value};

/// Violations told at most; more would only repeat the same mistake.
const MOST_TOLD: usize = 20;

/// Characters of a client's own text that are told back at most.
const MOST_ECHOED: usize = 100;

/// Smallest and largest number allowed, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The smallest.
    pub(super) min: f64,
    /// The largest.
    pub(super) max: f64,
}

/// What becomes of members that nobody takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnknownKeys {
    /// They are let through.
    Ignored,
    /// They are violations, in the objects inside as well.
    Refused,
}

/// The members of one object, taken out one by one.
#[derive(Debug)]
pub(super) struct Members {
    pointer: String,
    unknown_keys: UnknownKeys,
    left: Map<String, Value>,
    missing: Vec<String>,
    wrong: Vec<String>,
}

impl Members {
    /// The members of the object at this JSON pointer (`#` is the whole body).
    pub(super) fn new(
        pointer: impl Into<String>,
        object: Map<String, Value>,
        unknown_keys: UnknownKeys,
    ) -> Self {
        let (missing, wrong) = (Vec::new(), Vec::new());
        Self { pointer: pointer.into(), unknown_keys, left: object, missing, wrong }
    }

    /// Whether a member of this name has not been taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.left.contains_key(key)
    }

    /// Notes a violation where this member is absent.
    pub(super) fn require(&mut self, key: &str) {
        if !self.has(key) {
            self.missing.push(format!("{}: required key [{key}] not found", self.pointer));
        }
    }

    /// A text of at most so many characters.
    pub(super) fn string(&mut self, key: &str, max_length: Option<usize>) -> Option<String> {
        let Value::String(text) = self.take(key, "String", Value::is_string)? else { return None };
        // A byte is at most a character, so most texts need no count.
        let too_long = max_length.filter(|&max| text.len() > max && text.chars().count() > max);
        if let Some(max) = too_long {
            let actual = text.chars().count();
            self.violation(key, format_args!("expected maxLength: {max}, actual: {actual}"));
            return None;
        }
        Some(text)
    }

    /// A number, whole or not.
    pub(super) fn number(&mut self, key: &str, range: Range) -> Option<f64> {
        let Value::Number(number) = self.take(key, "Number", Value::is_number)? else { return None };
        self.within(key, &number, range)
    }

    /// A whole number, also where it is written as `30.0`.
    pub(super) fn integer(&mut self, key: &str, range: Range) -> Option<u64> {
        let Value::Number(number) = self.take(key, "Integer", is_whole)? else { return None };
        self.within(key, &number, range).map(|value| value as u64)
    }

    /// A whole number that a step divides.
    pub(super) fn multiple(&mut self, key: &str, range: Range, of: u32) -> Option<u64> {
        let Value::Number(number) = self.take(key, "Integer", is_whole)? else { return None };
        let value = self.within(key, &number, range);
        // The validator tells this beside a value out of range.
        let is_multiple = number.as_f64().is_some_and(|value| value % f64::from(of) == 0.0);
        if !is_multiple {
            self.violation(key, format_args!("{number} is not a multiple of {of}"));
        }
        value.filter(|_| is_multiple).map(|value| value as u64)
    }

    /// A whole number of any size, whose value does not matter.
    pub(super) fn ignored_integer(&mut self, key: &str) {
        let _ignored = self.take(key, "Integer", is_whole);
    }

    /// One of these names.
    pub(super) fn name<T: Copy>(&mut self, key: &str, names: &[(&str, T)]) -> Option<T> {
        let given = self.string(key, None)?;
        let found = names.iter().find(|(name, _)| *name == given);
        if found.is_none() {
            self.violation(key, format_args!("{} is not a valid enum value", echo(&given)));
        }
        found.map(|&(_, value)| value)
    }

    /// An object, whatever is in it.
    pub(super) fn object(&mut self, key: &str) -> Option<Map<String, Value>> {
        match self.take(key, "JSONObject", Value::is_object)? {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// A list of objects, each read by `read`.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        counts: std::ops::RangeInclusive<usize>,
        read: impl Fn(&mut Members) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.take(key, "JSONArray", Value::is_array)? else { return None };
        let (min, max, found) = (*counts.start(), *counts.end(), items.len());
        if found < min {
            self.violation(key, format_args!("expected minimum item count: {min}, found: {found}"));
        }
        if found > max {
            self.violation(key, format_args!("expected maximum item count: {max}, found: {found}"));
            return None;
        }
        items.into_iter().enumerate().map(|(index, item)| self.item(key, index, item, &read)).collect()
    }

    /// Everything that was found wrong. Members that nobody took are unknown keys.
    pub(super) fn finish(self) -> Vec<String> {
        let Self { pointer, unknown_keys, left, missing, wrong } = self;
        let unknown = left.keys().filter(|_| unknown_keys == UnknownKeys::Refused);
        let extraneous =
            unknown.map(|key| format!("{pointer}: extraneous key [{}] is not permitted", echo(key)));
        missing.into_iter().chain(extraneous).chain(wrong).take(MOST_TOLD).collect()
    }

    fn item<T>(
        &mut self,
        key: &str,
        index: usize,
        item: Value,
        read: impl Fn(&mut Members) -> Option<T>,
    ) -> Option<T> {
        let pointer = format!("{}/{key}/{index}", self.pointer);
        let Value::Object(members) = item else {
            self.wrong.push(format!("{pointer}: expected type: JSONObject, found: {}", class_of(&item)));
            return None;
        };
        let mut members = Members::new(pointer, members, self.unknown_keys);
        let read = read(&mut members);
        self.wrong.extend(members.finish());
        read
    }

    /// Takes a member out if it is of the type wanted.
    fn take(&mut self, key: &str, class: &str, is_wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let value = self.left.shift_remove(key)?;
        if !is_wanted(&value) {
            self.violation(key, format_args!("expected type: {class}, found: {}", class_of(&value)));
            return None;
        }
        Some(value)
    }

    fn within(&mut self, key: &str, number: &Number, range: Range) -> Option<f64> {
        let value = number.as_f64()?;
        let Range { min, max } = range;
        if value < min {
            self.violation(key, format_args!("{number} is not greater or equal to {min}"));
        } else if value > max {
            self.violation(key, format_args!("{number} is not less or equal to {max}"));
        }
        (min..=max).contains(&value).then_some(value)
    }

    fn violation(&mut self, key: &str, text: std::fmt::Arguments<'_>) {
        self.wrong.push(format!("{}/{key}: {text}", self.pointer));
    }
}

/// Whether a value is a number without a fraction.
fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// The simple name of the Java class that the service's JSON reader makes of a value.
fn class_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "Null",
        Value::Bool(_) => "Boolean",
        Value::String(_) => "String",
        Value::Array(_) => "JSONArray",
        Value::Object(_) => "JSONObject",
        Value::Number(number) => match number.as_i64() {
            Some(whole) if i32::try_from(whole).is_ok() => "Integer",
            Some(_) => "Long",
            None if number.is_u64() => "BigInteger",
            None => "BigDecimal",
        },
    }
}

/// A client's own text as it may be told back.
fn echo(text: &str) -> String {
    match text.char_indices().nth(MOST_ECHOED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ANY: Range = Range { min: 0.0, max: 35.0 };

    fn members(value: Value) -> Members {
        let Value::Object(members) = value else { panic!("not an object") };
        Members::new("#", members, UnknownKeys::Refused)
    }

    #[test]
    fn each_java_class_has_its_name() {
        let table = [
            (json!(null), "Null"),
            (json!(true), "Boolean"),
            (json!("x"), "String"),
            (json!([]), "JSONArray"),
            (json!({}), "JSONObject"),
            (json!(-7), "Integer"),
            (json!(3_000_000_000_u64), "Long"),
            (json!(u64::MAX), "BigInteger"),
            (json!(0.5), "BigDecimal"),
        ];
        for (value, class) in table {
            assert_eq!(class_of(&value), class);
        }
    }

    #[test]
    fn violations_come_in_the_validators_order() {
        let mut body = members(json!({"wrong": "x", "unknown": 1, "low": -1}));
        assert_eq!(body.number("low", ANY), None);
        assert_eq!(body.number("wrong", ANY), None);
        body.require("absent");
        assert_eq!(
            body.finish(),
            [
                "#: required key [absent] not found",
                "#: extraneous key [unknown] is not permitted",
                "#/low: -1 is not greater or equal to 0",
                "#/wrong: expected type: Number, found: String",
            ]
        );
    }

    #[test]
    fn whole_numbers_may_be_written_as_decimals() {
        let mut body = members(json!({"a": 30.0, "b": 30.5, "c": 1e20, "d": 64, "e": 65, "f": 100}));
        assert_eq!(body.integer("a", ANY), Some(30));
        assert_eq!(body.integer("b", ANY), None);
        assert_eq!(body.integer("c", ANY), None);
        assert_eq!(body.multiple("d", Range { min: 0.0, max: 99.0 }, 64), Some(64));
        assert_eq!(body.multiple("e", Range { min: 0.0, max: 99.0 }, 64), None);
        assert_eq!(body.multiple("f", Range { min: 0.0, max: 99.0 }, 64), None);
        assert_eq!(
            body.finish(),
            [
                "#/b: expected type: Integer, found: BigDecimal",
                "#/c: 1e+20 is not less or equal to 35",
                "#/e: 65 is not a multiple of 64",
                "#/f: 100 is not less or equal to 99",
                "#/f: 100 is not a multiple of 64",
            ]
        );
    }

    #[test]
    fn what_is_told_back_is_bounded() {
        let mut body = members(json!({"name": "é".repeat(1_000_000)}));
        assert_eq!(body.name("name", &[("a", 1)]), None);
        assert!(body.finish()[0].len() < 300);
        let many: Map<String, Value> = (0..1000).map(|index| (index.to_string(), Value::Null)).collect();
        assert_eq!(Members::new("#", many, UnknownKeys::Refused).finish().len(), MOST_TOLD);
    }
}
