//! Where replicas may be, what is said when they may not, plans that change nothing, and ports that
//! a node cannot have.

use std::process::{Command, Stdio};

use weft_e2e::asked::{nodes_of, published, replicas, resources, service_file};
use weft_e2e::{Fleet, PATIENCE, eventually, web_image};

#[test]
fn labels_zones_and_closed_nodes_decide_and_explain_says_what_each_node_lacks() {
    let Some(fleet) = Fleet::zoned() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let web = |name: &str, replicas: u32, placement: &str, cpu: &str| {
        let more = format!(
            "replicas: {{target: {replicas}}}\nplacement: {placement}\n{}",
            resources(cpu)
        );
        service_file(name, &image, &more)
    };
    let placed = |name: &str, replicas, placement: &str| {
        fleet
            .apply(&web(name, replicas, placement, "50m"), true)
            .expect_code(0);
        nodes_of(&fleet.service(name))
    };
    assert_eq!(
        placed("required", 3, "{labels: {zone: b}}"),
        ["n3", "n3", "n3"]
    );
    assert_eq!(
        placed("preferred", 2, "{prefer: {ssd: 'true'}}"),
        ["n1", "n1"]
    );
    let both = placed("zones", 2, "{spread: zone}");
    assert_eq!(both[1], "n3", "one in each zone: {both:?}");
    assert_eq!(placed("spread", 3, "{spread: node}"), ["n1", "n2", "n3"]);

    assert_eq!(placed("beside", 2, "{with: [required]}"), ["n3", "n3"]);
    let away = placed("away", 3, "{apart: [required]}");
    assert!(!away.contains(&"n3".to_owned()), "{away:?}");
    let alone = placed("alone", 3, "{apart: [alone]}");
    assert_eq!(alone, ["n1", "n2", "n3"]);
    fleet
        .apply(&web("lonely", 1, "{with: [company]}", "50m"), false)
        .expect_code(0);
    fleet.wait_for("lonely", "waits for company", |service| {
        service["reason"] == "no-candidate"
    });
    let explained = fleet.run(&["explain", "lonely"]).expect_code(75).stdout;
    assert!(
        explained.contains("company has no unit there"),
        "{explained}"
    );
    let company = placed("company", 1, "{}");
    fleet.wait_for("lonely", "follows its company", |service| {
        replicas(service, "ready") == 1
    });
    assert_eq!(nodes_of(&fleet.service("lonely")), company);

    fleet.run(&["node", "cordon", "n1"]).expect_code(0);
    assert_eq!(
        replicas(&fleet.service("preferred"), "ready"),
        2,
        "what runs there stays"
    );
    let elsewhere = placed("later", 2, "{prefer: {ssd: 'true'}}");
    assert!(!elsewhere.contains(&"n1".to_owned()), "{elsewhere:?}");

    // Each node has a reason of its own: closed, too small, in the wrong place.
    fleet
        .apply(&web("large", 1, "{labels: {zone: a}}", "900m"), false)
        .expect_code(0);
    fleet.wait_for("large", "waits", |service| {
        service["reason"] == "insufficient-resources"
    });
    let explained = fleet.run(&["explain", "large", "-o", "json"]).json();
    let lacks = |node: &str| {
        let considered = explained["considered"].as_array().into_iter().flatten();
        let mut of_node = considered.filter(|it| it["node"] == node);
        let refused = of_node.next().map(|it| it["refused"].clone());
        refused
            .unwrap_or_default()
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(lacks("n1").contains("cordoned"), "{explained}");
    assert!(lacks("n2").contains("CPU"), "{explained}");
    assert!(lacks("n3").contains("zone=a"), "{explained}");
    let nearest = explained["nearest_change"].as_str().unwrap_or_default();
    assert!(!nearest.is_empty(), "{explained}");

    fleet
        .apply(&web("fast", 1, "{labels: {ssd: 'true'}}", "50m"), false)
        .expect_code(0);
    fleet.wait_for("fast", "waits for n1", |service| {
        service["reason"] == "no-candidate"
    });
    let explained = fleet.run(&["explain", "fast"]).expect_code(75).stdout;
    assert!(explained.contains("weft node uncordon n1"), "{explained}");
    fleet.run(&["node", "uncordon", "n1"]).expect_code(0);
    fleet.wait_for("fast", "runs on n1", |service| {
        replicas(service, "ready") == 1
    });
    assert_eq!(nodes_of(&fleet.service("fast")), ["n1"]);
}

#[test]
fn plans_say_what_would_happen_and_nothing_does() {
    let Some(fleet) = Fleet::zoned() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let file = fleet.cluster.dir.path().join("planned.yaml");
    let plan = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        fleet.run(&["plan", "-f", &file.display().to_string()])
    };
    let more = |replicas: u32| format!("replicas: {{target: {replicas}}}\n{}", resources("400m"));
    let first = service_file("web", &image, &more(2));

    let created = plan(&first).expect_code(1);
    assert!(
        created.stdout.contains("web  would be created"),
        "{}",
        created.stdout
    );
    let units = created
        .stdout
        .lines()
        .filter(|line| line.contains("unit "))
        .count();
    assert_eq!(units, 2, "{}", created.stdout);
    assert!(fleet.service("web").is_null());
    assert_eq!(fleet.events("service.applied").len(), 0);

    fleet.apply(&first, true).expect_code(0);
    let before = fleet.service("web");
    let same = plan(&first).expect_code(0);
    assert!(
        same.stdout.contains("is as it should be"),
        "{}",
        same.stdout
    );

    let scaled = plan(&service_file("web", &image, &more(7))).expect_code(1);
    assert!(scaled.stdout.contains("replicas"), "{}", scaled.stdout);
    assert!(!scaled.stdout.contains("are replaced"), "{}", scaled.stdout);
    assert!(
        scaled.stdout.contains("nowhere now"),
        "only six fit: {}",
        scaled.stdout
    );
    assert!(
        scaled.stderr.contains("insufficient-resources"),
        "{}",
        scaled.stderr
    );

    let other = first.replace("web:1", "web:2");
    let changed = plan(&other).expect_code(1);
    assert!(
        changed.stdout.contains("container.image"),
        "{}",
        changed.stdout
    );
    assert!(
        changed.stdout.contains("replaced one after the other"),
        "{}",
        changed.stdout
    );

    let refused = plan(&first.replace("image:", "imgae:"));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("imgae"), "{}", refused.stderr);

    let gone = fleet.run(&["delete", "web", "--dry-run"]).expect_code(0);
    assert!(
        gone.stdout.contains("web  would be deleted"),
        "{}",
        gone.stdout
    );
    assert_eq!(gone.stdout.matches("- unit").count(), 2, "{}", gone.stdout);

    let after = fleet.service("web");
    for field in [
        "id",
        "revision",
        "spec",
        "changed_at",
        "replicas",
        "rollout",
    ] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(nodes_of(&after), nodes_of(&before));
}

#[test]
fn a_service_apart_from_itself_is_replaced_in_place_where_every_node_has_one() {
    let Some(fleet) = Fleet::zoned() else {
        return;
    };
    let first = fleet.push("web:1", &web_image("one", true)).tagged;
    let second = fleet.push("web:2", &web_image("two", true)).tagged;
    let alone = |image: &str, min: u32| {
        let more = format!(
            "replicas: {{min: {min}, target: 3}}\nplacement: {{apart: [alone]}}\n{}",
            resources("100m")
        );
        service_file("alone", image, &more)
    };
    fleet.apply(&alone(&first, 0), true).expect_code(0);
    fleet.apply(&alone(&second, 0), false).expect_code(0);
    fleet.wait_for(
        "alone",
        "is updated, one a node at every moment",
        |service| {
            let units = service["units"].as_array().into_iter().flatten();
            let mut nodes: Vec<&str> = units.filter_map(|unit| unit["node"].as_str()).collect();
            let all = nodes.len();
            nodes.sort_unstable();
            nodes.dedup();
            assert_eq!(nodes.len(), all, "{service}");
            let units = service["units"].as_array().into_iter().flatten();
            let new = units.filter(|unit| unit["revision"] == 2).count();
            new == 3 && replicas(service, "ready") == 3
        },
    );
    assert_eq!(nodes_of(&fleet.service("alone")), ["n1", "n2", "n3"]);

    // None may be missing, and there is no fourth node.
    fleet.apply(&alone(&first, 3), false).expect_code(0);
    fleet.wait_for("alone", "says what it waits for", |service| {
        let why = service["detail"].as_str().unwrap_or_default();
        why.contains("`replicas.min` is 3")
    });
    assert_eq!(replicas(&fleet.service("alone"), "ready"), 3);
}

#[test]
fn the_cheapest_node_is_taken_and_a_budget_refuses_what_costs_more() {
    let prices = ["0.30", "0.10", "0.20"];
    let args = |number: usize| {
        let price = prices[number - 1];
        let args = ["--cpu", "1", "--memory", "1Gi", "--price-per-hour", price];
        args.map(str::to_owned).to_vec()
    };
    let Some(fleet) = Fleet::with(args) else {
        return;
    };
    let listed = fleet.run(&["node", "ls", "-o", "json"]).expect_code(0);
    let listed = listed.json();
    let listed = listed.as_array().into_iter().flatten();
    let told: Vec<_> = listed
        .map(|node| node["capacity"]["price_per_hour"].clone())
        .collect();
    assert_eq!(told, ["$0.30", "$0.10", "$0.20"]);
    let wide = fleet.run(&["node", "ls", "-o", "wide"]).expect_code(0);
    assert!(wide.stdout.contains("$0.10/h"), "{}", wide.stdout);

    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let file = fleet.cluster.dir.path().join("priced.yaml");
    // Half of a node each: two have room on the cheapest.
    let priced = |replicas: u32, budget: &str| {
        let more = format!(
            "replicas: {{target: {replicas}}}\nplacement: {{strategy: cheapest}}\n{}\
             budget: {{per_hour: {budget}, on_exceed: block}}\n",
            resources("500m")
        );
        service_file("priced", &image, &more)
    };
    let plan = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        fleet
            .run(&["plan", "-f", &file.display().to_string()])
            .expect_code(1)
    };
    let planned = plan(&priced(3, "$0.20"));
    assert!(planned.stdout.contains("$0.20/h"), "{}", planned.stdout);
    assert!(
        !planned.stderr.contains("budget-exceeded"),
        "{}",
        planned.stderr
    );
    let planned = plan(&priced(3, "$0.19"));
    assert!(
        planned.stderr.contains("budget-exceeded"),
        "{}",
        planned.stderr
    );
    let refused = fleet.apply(&priced(3, "$0.19"), false).expect_code(77);
    assert!(
        refused.stderr.contains("$0.20/h") && refused.stderr.contains("$0.19"),
        "{}",
        refused.stderr
    );
    assert!(fleet.service("priced").is_null(), "nothing was applied");

    fleet.apply(&priced(2, "$0.10"), true).expect_code(0);
    assert_eq!(nodes_of(&fleet.service("priced")), ["n2", "n2"]);
    fleet.apply(&priced(3, "$0.10"), false).expect_code(77);
    assert_eq!(replicas(&fleet.service("priced"), "wanted"), 2);
    fleet.apply(&priced(3, "$0.20"), true).expect_code(0);
    assert_eq!(nodes_of(&fleet.service("priced")), ["n2", "n2", "n3"]);
}

#[test]
fn a_port_that_a_node_cannot_have_is_said_until_it_can() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let taken = fleet.hosts.host(2);
    let holder = Command::new("ip")
        .args([
            "netns", "exec", &taken, "busybox", "httpd", "-f", "-p", "8080", "-h", "/tmp",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut holder = holder.expect("somebody with the port");
    eventually("somebody has the port", PATIENCE, || fleet.listens(2, 8080));
    let more = resources("100m");
    let text = published(&service_file("web", &image, &more));
    fleet.apply(&text, true).expect_code(0);
    fleet.wait_for("web", "says that n2 does not serve it", |service| {
        let detail = service["detail"].as_str().unwrap_or_default();
        service["reason"] == "network-error" && detail.contains("on n2 port 8080")
    });
    let service = fleet.service("web");
    assert_eq!(service["state"], "running", "{service}");
    let told = fleet.events("service.port-refused");
    assert!(!told.is_empty());
    // Told again in every session of the node.
    for told in &told {
        assert_eq!(told["data"]["node"], "n2", "{told}");
    }
    fleet.answers(1, "one");
    let explained = fleet.run(&["explain", "web"]).expect_code(0).stdout;
    assert!(explained.contains("on n2 port 8080"), "{explained}");

    holder.kill().expect("it can be killed");
    holder.wait().expect("it ends");
    fleet.wait_for("web", "is served by all", |service| {
        replicas(service, "ready") > 0 && service["reason"].is_null()
    });
    fleet.answers(2, "one");
    assert!(!fleet.events("service.port-served").is_empty());
}
