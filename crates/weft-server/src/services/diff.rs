//! What differs between two specifications, and whether that replaces units.

use serde_json::Value;
use weft_api::ChangeView;
use weft_types::Workload;

/// The most changes that are told.
const MAX_CHANGES: usize = 100;
/// The most characters of a value that are told.
const MAX_VALUE_CHARS: usize = 200;

/// The fields that differ.
pub fn changes(from: &Workload, to: &Workload) -> Vec<ChangeView> {
    let json = |spec: &Workload| serde_json::to_value(spec).unwrap_or_default();
    let mut found = Vec::new();
    compare(
        String::new(),
        Some(&json(from)),
        Some(&json(to)),
        &mut found,
    );
    found.truncate(MAX_CHANGES);
    found
}

fn compare(path: String, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<ChangeView>) {
    if from == to {
        return;
    }
    if let (Some(Value::Object(from)), Some(Value::Object(to))) = (from, to) {
        let mut keys: Vec<&String> = from.keys().chain(to.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let dot = if path.is_empty() { "" } else { "." };
            let inner = format!("{path}{dot}{key}");
            compare(inner, from.get(key), to.get(key), found);
        }
        return;
    }
    found.push(ChangeView {
        path,
        from: from.map(shown),
        to: to.map(shown),
    });
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Whether units of one specification are not units of the other: everything but how many there
/// are, where later ones go and how they follow each other.
pub fn replaces_units(from: &Workload, to: &Workload) -> bool {
    inside(from) != inside(to)
}

fn inside(spec: &Workload) -> Workload {
    let empty = Workload::new(spec.runtime);
    Workload {
        api_version: None,
        replicas: None,
        scaling: None,
        update: None,
        placement: empty.placement,
        retry: empty.retry,
        budget: None,
        priority: 0,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Workload {
        weft_types::parse_json(json.as_bytes()).expect("a workload")
    }

    #[test]
    fn changes_name_their_fields() {
        let from = spec(
            r#"{"name":"a","run":"service","runtime":"container","container":{"image":"web:1","env":{"A":"1"}}}"#,
        );
        let to = spec(
            r#"{"name":"a","run":"service","runtime":"container","container":{"image":"web:2"}}"#,
        );
        let changes = changes(&from, &to);
        let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["container.env", "container.image"]);
        assert_eq!(changes[1].from.as_deref(), Some("web:1"));
        assert_eq!(changes[1].to.as_deref(), Some("web:2"));
        assert!(replaces_units(&from, &to));
    }

    #[test]
    fn another_number_of_replicas_replaces_nothing() {
        let from = spec(
            r#"{"name":"a","run":"service","runtime":"container","container":{"image":"web:1"}}"#,
        );
        let mut to = from.clone();
        to.replicas = Some(weft_types::Replicas {
            target: 3,
            ..Default::default()
        });
        assert!(!replaces_units(&from, &to));
        assert_eq!(changes(&from, &to).len(), 1);
        assert!(changes(&from, &from).is_empty());
    }
}
