//! The suite of the port, for each OCI runtime.

use std::collections::BTreeMap;
use std::process::Command;

use weft_unit::conformance::{Abilities, run_all};

use crate::ground::{Ground, Node, Tested, missing, with_ground};

const INSIDE: &str = "WEFT_TEST_ALONE";

fn suite(class: &str, abilities: Abilities, left_out: BTreeMap<&'static str, &'static str>) {
    with_ground(&[class], async move |ground: &Ground| {
        let node = Node::new(ground.dir.path(), class, &[class]);
        let tested = Tested {
            stranger: Node::new(ground.dir.path(), "stranger", &[class]),
            runtime: node.open(),
            node,
            image: ground.image.clone(),
            class: class.to_owned(),
            abilities,
            left_out,
        };
        run_all(&tested).await;
    });
}

pub fn crun() {
    suite("crun", Abilities::default(), BTreeMap::new());
}

pub fn runc() {
    suite("runc", Abilities::default(), BTreeMap::new());
}

pub fn runsc() {
    let abilities = Abilities {
        // `runsc exec` makes no terminal, and the limits are the sandbox's as a whole.
        tty: false,
        memory_limit: false,
        process_limit: false,
        ..Abilities::default()
    };
    // Its client can be killed, but tells no process of this machine that would end with it.
    let left_out = BTreeMap::from([(
        "dropped_session_ends_the_command",
        "a command in a sandbox goes on when its session is dropped",
    )]);
    suite("runsc", abilities, left_out);
}

/// Again, as an agent that was started by `ip netns exec`: with no control groups mounted, and
/// nobody else's interfaces.
pub fn in_a_network_namespace() {
    if let Some(missing) = missing(&["crun", "ip"]) {
        println!("skipped: needs {missing}");
        return;
    }
    let name = format!("weft-oci-{}", std::process::id());
    let ip = |words: &[&str]| Command::new("ip").args(words).status();
    assert!(ip(&["netns", "add", &name]).is_ok_and(|status| status.success()));
    let _ = ip(&["-n", &name, "link", "set", "lo", "up"]);
    let status = Command::new("ip")
        .args(["netns", "exec", &name])
        .arg(std::env::current_exe().expect("our own path"))
        .arg("conformance::crun")
        .env(INSIDE, "1")
        .status();
    let _ = ip(&["netns", "del", &name]);
    assert!(
        status.is_ok_and(|status| status.success()),
        "the suite failed inside"
    );
}
