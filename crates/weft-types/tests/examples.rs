//! Every example of a service is one that is understood.

use std::path::Path;

use weft_types::{Run, SourceFormat, parse_workload};

#[test]
fn every_example_is_understood() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/services");
    let mut seen = 0;
    for entry in std::fs::read_dir(&dir).expect("the examples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let workload = parse_workload(&text, SourceFormat::Yaml);
        let workload = workload.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(workload.run, Run::Service, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 5, "{seen} examples");
}
