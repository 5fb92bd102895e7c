//! Reads YAML that anyone may have written.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};
use serde_yaml_ng::Value as Yaml;

/// The largest file, in bytes.
pub const MAX_YAML_BYTES: usize = 512 << 10;
/// The most values in one document, with every alias written out: a few lines of aliases of aliases
/// stand for more than any machine holds.
const MAX_VALUES: usize = 50_000;

/// Reads one document, with merge keys applied. Tags, duplicate keys, several documents and more
/// than [`MAX_VALUES`] values are refused, before anything is expanded.
pub fn parse(text: &str) -> Result<Json, String> {
    if text.len() > MAX_YAML_BYTES {
        return Err(format!("larger than {MAX_YAML_BYTES} bytes"));
    }
    let mut left = MAX_VALUES;
    Counter(&mut left)
        .deserialize(serde_yaml_ng::Deserializer::from_str(text))
        .map_err(|error| error.to_string())?;
    let mut value: Yaml = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    value.apply_merge().map_err(|error| error.to_string())?;
    to_json(value)
}

/// Visits every value without keeping any.
struct Counter<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for Counter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Some(left) = self.0.checked_sub(1) else {
            return Err(D::Error::custom(format!(
                "more than {MAX_VALUES} values, with its aliases written out"
            )));
        };
        *self.0 = left;
        deserializer.deserialize_any(self)
    }
}

macro_rules! scalars {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<(), E> { Ok(()) })*
    };
}

impl<'de> Visitor<'de> for Counter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML without tags")
    }

    scalars! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Counter(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Counter(self.0))?.is_some() {
            map.next_value_seed(Counter(self.0))?;
        }
        Ok(())
    }
}

fn to_json(value: Yaml) -> Result<Json, String> {
    Ok(match value {
        Yaml::Null => Json::Null,
        Yaml::Bool(value) => value.into(),
        Yaml::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (_, Some(number)) => number.into(),
            _ => number.as_f64().map_or(Json::Null, Json::from),
        },
        Yaml::String(text) => text.into(),
        Yaml::Sequence(items) => {
            Json::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = to_key(key)?;
                if map.insert(key.clone(), to_json(value)?).is_some() {
                    return Err(format!("{key:?} is given twice"));
                }
            }
            Json::Object(map)
        }
        Yaml::Tagged(tagged) => return Err(format!("tag {} is not supported", tagged.tag)),
    })
}

fn to_key(key: Yaml) -> Result<String, String> {
    match key {
        Yaml::String(text) => Ok(text),
        Yaml::Number(number) => Ok(number.to_string()),
        Yaml::Bool(value) => Ok(value.to_string()),
        other => Err(format!("{other:?} is not a key")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_keys_and_aliases_are_applied() {
        let text = "x-base: &b {image: a, user: u}\nservices: {web: {<<: *b, user: v}}\n";
        let read = parse(text).unwrap();
        assert_eq!(read["services"]["web"], json!({"image": "a", "user": "v"}));
    }

    #[test]
    fn alias_bombs_are_refused_before_they_are_expanded() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(parse(&bomb).is_err());
        let refs = vec!["*a"; 300].join(",");
        let wide = format!("a: &a [{}]\nb: &b [{refs}]\n", vec!["x"; 300].join(","));
        let error = parse(&wide).unwrap_err();
        assert!(error.contains("more than"), "{error}");
    }

    #[test]
    fn tags_duplicates_several_documents_and_large_files_are_refused() {
        let large = "#".repeat(MAX_YAML_BYTES + 1);
        let nested = format!("a: {}", "[".repeat(10_000));
        for text in [
            "a: !reset 1",
            "a: 1\na: 2",
            "--- a\n--- b\n",
            &large,
            &nested,
        ] {
            assert!(parse(text).is_err(), "{:.40}", text);
        }
    }
}
