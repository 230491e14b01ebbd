//! JSON from strangers: read once, into a tree that cannot grow much larger than the text it came from.
//!
//! A tree of [`Value`]s can take twenty times the memory of its text (a million empty lists, say), so the number of
//! values is bounded. Nesting is bounded by `serde_json` itself. An object that names a key twice is refused: which
//! of the two counts would depend on the reader.
//!
//! Errors: `None` for everything that is no such text, also for numbers too large for a double and lone surrogates.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{cell::Cell, fmt};

/// Values in one text: several times what any client of these protocols sends.
const MOST_VALUES: usize = 16_384;

/// The value that these bytes are, surrounded by nothing but white space.
pub(crate) fn parse(bytes: &[u8]) -> Option<Value> {
    let left = Cell::new(MOST_VALUES);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Bounded { left: &left }.deserialize(&mut reader).ok()?;
    reader.end().is_ok().then_some(value)
}

/// Reads one value and counts it.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            if members.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands there twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_reads_as_serde_json_reads_it() {
        let text = r#" {"a":[1,-2,3.5,1e3,true,null,"é\n"],"b":{"c":{}}} "#;
        assert_eq!(parse(text.as_bytes()), serde_json::from_str(text).ok());
    }

    #[test]
    fn hostile_text_is_refused() {
        let deep = "[".repeat(100_000);
        let wide = format!("[{}0]", "0,".repeat(MOST_VALUES));
        let cases = [
            "",
            "{",
            "{}x",
            "{'a':1}",
            "[NaN]",
            "[Infinity]",
            "[1e999]",
            r#"{"a":1,"a":1}"#,
            r#"["\ud800"]"#,
        ];
        for wrong in cases.into_iter().chain([deep.as_str(), wide.as_str()]) {
            assert_eq!(parse(wrong.as_bytes()), None, "{:.40}", wrong);
        }
        assert_eq!(parse(b"\"\xff\""), None);
    }
}
