//! Reading a JSON object member by member, as leniently as clients in many languages need it.
//!
//! `null` is no member. Whole numbers do for others, `20.0` does for 20, 0 and 1 do for booleans, one text does for a list
//! of it. Members that nobody takes are unknown and ignored. The first member that is wrong is told.

use super::fault::Fault;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Entries of one list or table at most.
const MOST_ENTRIES: usize = 32;

/// Bytes of a text that is no picture at most; prompts have tighter limits of their own.
const LONGEST_TEXT: usize = 16_384;

/// The members of one object, taken out one by one.
#[derive(Debug)]
pub(super) struct Members {
    /// What stands before a member's name in messages: empty, or `logo_info.`.
    prefix: String,
    left: Map<String, Value>,
}

impl Members {
    /// The members of a body.
    pub(super) fn of(object: Map<String, Value>) -> Self {
        Self { prefix: String::new(), left: object }
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() > LONGEST_TEXT => {
                Err(self.wrong(key, &format!("has more than {LONGEST_TEXT} bytes")))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.unreadable(key, "a string")),
        }
    }

    /// An id, which some clients send as a number.
    pub(super) fn id(&mut self, key: &str) -> Result<Option<String>, Fault> {
        match self.left.get(key) {
            Some(Value::Number(number)) if number.is_u64() => {
                let id = number.to_string();
                self.left.remove(key);
                Ok(Some(id))
            }
            _ => self.text(key),
        }
    }

    /// A number within a range.
    pub(super) fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Fault> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.unreadable(key, "a number"))?;
        self.within(key, number, range).map(Some)
    }

    /// A whole number within a range.
    pub(super) fn whole(&mut self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Fault> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let decimal = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
        let whole = value.as_i64().or_else(|| decimal().map(|number| number as i64));
        match whole {
            Some(whole) if range.contains(&whole) => Ok(Some(whole)),
            _ if value.is_number() => {
                Err(self.wrong(key, &format!("is a whole number from {} to {}", range.start(), range.end())))
            }
            _ => Err(self.unreadable(key, "a whole number")),
        }
    }

    /// A yes or no.
    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(Value::Number(number)) if matches!(number.as_i64(), Some(0 | 1)) => {
                Ok(Some(number.as_i64() == Some(1)))
            }
            Some(_) => Err(self.unreadable(key, "true or false")),
        }
    }

    /// A list of texts of any length, empty ones left out.
    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>, Fault> {
        let items = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => vec![Value::String(text)],
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.unreadable(key, "a list of strings")),
        };
        if items.len() > MOST_ENTRIES {
            return Err(self.wrong(key, &format!("has more than {MOST_ENTRIES} entries")));
        }
        let text = |item| match item {
            Value::String(text) => Ok(text),
            _ => Err(self.unreadable(key, "a list of strings")),
        };
        let texts: Vec<String> = items.into_iter().map(text).collect::<Result<_, _>>()?;
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }

    /// The members of an object inside.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Self>, Fault> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(left)) => Ok(Some(Self { prefix: format!("{}{key}.", self.prefix), left })),
            Some(_) => Err(self.unreadable(key, "an object")),
        }
    }

    /// The names of all members that are left.
    pub(super) fn names(&self) -> Result<Vec<String>, Fault> {
        if self.left.len() > MOST_ENTRIES {
            let table = self.prefix.trim_end_matches('.');
            return Err(Fault::invalid(format!("{table} has more than {MOST_ENTRIES} entries")));
        }
        Ok(self.left.keys().cloned().collect())
    }

    /// Whether a member is an object.
    pub(super) fn is_object(&self, key: &str) -> bool {
        self.left.get(key).is_some_and(Value::is_object)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key).filter(|value| !value.is_null())
    }

    fn within(&self, key: &str, number: f64, range: RangeInclusive<f64>) -> Result<f64, Fault> {
        if range.contains(&number) {
            return Ok(number);
        }
        Err(self.wrong(key, &format!("goes from {} to {}", range.start(), range.end())))
    }

    /// A fault that names a member and its rule.
    pub(super) fn wrong(&self, key: &str, rule: &str) -> Fault {
        Fault::invalid(format!("Invalid Args: {}{} {rule}", self.prefix, echo(key)))
    }

    fn unreadable(&self, key: &str, wanted: &str) -> Fault {
        Fault::unreadable(format!("Parse Args: {}{} has to be {wanted}", self.prefix, echo(key)))
    }
}

/// A client's own text as it may be told back.
pub(super) fn echo(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volcengine::fault::Code;
    use serde_json::json;

    fn members(value: Value) -> Members {
        let Value::Object(object) = value else { panic!("not an object") };
        Members::of(object)
    }

    #[test]
    fn leniences_are_as_documented() {
        let mut body =
            members(json!({"a": null, "b": 1, "c": 20.0, "d": 1, "e": "x", "f": [], "g": 7, "h": ["", "y"]}));
        assert_eq!(body.text("a"), Ok(None));
        assert_eq!(body.number("b", 0.0..=1.0), Ok(Some(1.0)));
        assert_eq!(body.whole("c", 1..=50), Ok(Some(20)));
        assert_eq!(body.flag("d"), Ok(Some(true)));
        assert_eq!(body.texts("e"), Ok(vec!["x".to_owned()]));
        assert_eq!(body.texts("f"), Ok(vec![]));
        assert_eq!(body.id("g"), Ok(Some("7".to_owned())));
        assert_eq!(body.texts("h"), Ok(vec!["y".to_owned()]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut body = members(
            json!({"a": 1, "b": "1", "c": 20.5, "d": 2, "e": [1], "f": 9, "g": {"x": true}, "h": 1e300}),
        );
        let code = |fault: Fault| match fault {
            Fault::Refused(code, message) => (code, message),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(body.text("a").expect_err("no text")).0, Code::ParseArgs);
        assert_eq!(code(body.number("b", 0.0..=1.0).expect_err("no number")).0, Code::ParseArgs);
        assert_eq!(code(body.whole("c", 1..=50).expect_err("not whole")).0, Code::InvalidArgs);
        assert_eq!(code(body.flag("d").expect_err("no flag")).0, Code::ParseArgs);
        assert_eq!(code(body.texts("e").expect_err("no texts")).0, Code::ParseArgs);
        let (kind, message) = code(body.number("f", 0.0..=1.0).expect_err("too large"));
        assert_eq!((kind, message.as_str()), (Code::InvalidArgs, "Invalid Args: f goes from 0 to 1"));
        let mut inner = body.object("g").expect("an object").expect("it is there");
        assert!(
            code(inner.number("x", 0.0..=1.0).expect_err("no number")).1.contains("g.x has to be a number")
        );
        assert_eq!(code(body.whole("h", 1..=50).expect_err("too large")).0, Code::InvalidArgs);
    }
}
