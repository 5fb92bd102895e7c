//! Compose files: refused or understood, never a panic; what reaches the node is never let through
//! without the right, whatever the rest of the file says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_compose_rules::parse_yaml;
use weft_compose_rules::policy::{Rights, check_model, check_raw, check_written};

const ALL: Rights = Rights { privileged: true };
const NONE: Rights = Rights { privileged: false };

fuzz_target!(|text: &str| {
    let Ok(doc) = parse_yaml(text) else {
        return;
    };
    for rights in [ALL, NONE] {
        let _ = check_raw(&doc, rights);
        let _ = check_written(&doc, rights);
        let Ok(mut model) = check_model(&doc, rights) else {
            continue;
        };
        let _ = (model.stages(), model.containers());
        let _ = model.activate(&["debug".to_owned()]);
    }
    // A right only ever allows more.
    if check_model(&doc, NONE).is_ok() {
        assert!(check_model(&doc, ALL).is_ok());
        let services = doc["services"].as_object().expect("they were let through");
        assert!(services.values().all(|it| it["privileged"] != true));
        assert!(services.values().all(|it| it["network_mode"] != "host"));
    }
});
