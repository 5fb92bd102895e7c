//! Specifications, repositories and images that are made to do harm: each is refused with a reason
//! that names what, nothing is left behind, and the next good one works.

mod bad_images;

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use bad_images::{BadImage, Member};
use serde_json::Value;
use weft_e2e::{PATIENCE, Site, eventually, web_image};

/// Within this long a refusal at the door is told, on a busy machine too.
const AT_THE_DOOR: Duration = Duration::from_secs(60);

/// Aliases of aliases that stand for a billion values.
fn bomb(key: &str) -> String {
    let mut bomb = format!("{key}0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("{key}{level}: &a{level} [{refs}]\n"));
    }
    bomb
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn compose(line: &str) -> String {
    format!("apiVersion: weft/v1\nname: app\nrun: service\nruntime: compose\ncompose:\n  {line}\n")
}

fn inline(file: &str) -> String {
    compose(&format!("inline: |\n{}", indented(file)))
}

fn container(image: &str, more: &str) -> String {
    format!(
        "apiVersion: weft/v1\nname: app\nrun: service\nruntime: container\n\
         resources: {{cpu: 100m, memory: 64Mi, disk: 0}}\ncontainer:\n  image: '{image}'\n  {more}\n"
    )
}

/// Applies what is refused before it is kept, for this field.
fn refused_at_the_door(site: &Site, text: &str, code: i32, field: &str) {
    let begun = Instant::now();
    let done = site.apply(text, false);
    let took = begun.elapsed();
    assert_eq!(
        done.code, code,
        "{text:.300}\n{}{}",
        done.stdout, done.stderr
    );
    assert!(done.stderr.contains(field), "{field}: {}", done.stderr);
    assert!(took < AT_THE_DOOR, "{took:?}: {text:.300}");
    assert!(site.service("default", "app").is_null());
}

/// Applies what only its node can judge, waits for its refusal and deletes it.
fn refused_on_the_node(site: &Site, text: &str, reason: &str, words: &[&str]) {
    site.apply(text, false).expect_code(0);
    let refused = site.wait_for("default", "app", "is refused", |service| {
        service["reason"] == reason
    });
    let detail = refused["detail"].as_str().unwrap_or_default();
    for word in words {
        assert!(detail.contains(word), "{word:?} is not in {detail:?}");
    }
    assert_eq!(refused["replicas"]["running"], 0, "{refused}");
    site.delete("default", "app");
    site.wait_until_nothing_is_left();
}

#[test]
fn specifications_that_leave_their_place_are_refused_at_the_door() {
    let Some(site) = Site::up(false) else {
        return;
    };
    for url in [
        "--upload-pack=touch /tmp/weft-owned",
        "ext::sh -c touch% /tmp/weft-owned",
        "file:///etc",
        "/etc",
        "git@host:path",
        "ssh://-oProxyCommand=touch/x",
    ] {
        let text = compose(&format!("git: {{url: '{url}'}}"));
        refused_at_the_door(&site, &text, 2, "compose.git.url");
    }
    for (more, field) in [
        ("ref: '--upload-pack=x'", "compose.git.ref"),
        ("ref: 'main:/etc'", "compose.git.ref"),
        ("path: '../../etc/passwd'", "compose.git.path"),
        ("path: /etc/passwd", "compose.git.path"),
        ("path: '--help'", "compose.git.path"),
    ] {
        let text = compose(&format!(
            "git: {{url: 'https://git.example/a.git', {more}}}"
        ));
        refused_at_the_door(&site, &text, 2, field);
    }
    for (volume, code, field) in [
        (
            "target: /../etc, class: local",
            2,
            "container.volumes[0].target",
        ),
        (
            "target: /x, class: local, name: ../x",
            2,
            "container.volumes[0].name",
        ),
        (
            "target: /x, class: local, sub_path: ../../etc",
            2,
            "container.volumes[0].sub_path",
        ),
        (
            "target: /x, host: /srv/../etc",
            2,
            "container.volumes[0].host",
        ),
        ("target: /x, host: /etc", 77, "container.volumes[0].host"),
    ] {
        let text = container("a:1", &format!("volumes: [{{{volume}}}]"));
        refused_at_the_door(&site, &text, code, field);
    }
    for (more, field) in [
        ("privileged: true", "container.privileged"),
        ("network: host", "container.network"),
    ] {
        refused_at_the_door(&site, &container("a:1", more), 77, field);
    }
    for (line, code, field) in [
        ("privileged: true", 77, "services.a.privileged"),
        ("volumes: ['/:/host']", 77, "services.a.volumes[0]"),
        ("volumes: ['../../etc:/x:ro']", 2, "services.a.volumes[0]"),
        ("env_file: ../../etc/passwd", 2, "services.a.env_file"),
        ("cgroup_parent: /", 2, "services.a.cgroup_parent"),
    ] {
        let text = inline(&format!("services:\n  a:\n    image: a\n    {line}\n"));
        let field = format!("compose.inline.{field}");
        refused_at_the_door(&site, &text, code, &field);
    }
    let file = "services: {a: {image: a}}\n";
    let bombs = inline(&format!("{}{file}", bomb("x-a")));
    refused_at_the_door(&site, &bombs, 2, "compose.inline");
    let bombs = format!("{}{}", bomb("a"), inline(file));
    refused_at_the_door(&site, &bombs, 2, "");
    assert!(!std::path::Path::new("/tmp/weft-owned").exists());
    assert_eq!(site.git.requests(), 0);

    let image = site.push("web:1", &web_image("good", true)).tagged;
    site.apply(&container(&image, "ports: ['8080:80']"), true)
        .expect_code(0);
    eventually("the good one answers", PATIENCE, || {
        site.fetch(8080, "/") == "good"
    });
    site.delete("default", "app");
    site.wait_until_nothing_is_left();
}

#[test]
fn repositories_that_leave_their_place_are_refused_on_the_node() {
    let Some(site) = Site::up(true) else {
        return;
    };
    let image = site.push("web:1", &web_image("good", true)).tagged;
    let with = |line: &str| format!("services:\n  a:\n    image: {image}\n    {line}\n");
    let write = |path: &str, text: &str| site.git.write(path, text).expect("a file");
    write("good/compose.yaml", &with("ports: ['8080:80']"));
    write("compose.yaml", &with("volumes: ['./data:/data:ro']"));
    write(
        "bomb.yaml",
        &format!("{}{}", bomb("x-a"), with("tty: true")),
    );
    write("privileged.yaml", &with("privileged: true"));
    write("host.yaml", &with("volumes: ['/etc:/x:ro']"));
    write("outside/app.yaml", &with("volumes: ['../../../..:/x:ro']"));
    write(
        "outside/env.yaml",
        &with("env_file: ../../../../etc/passwd"),
    );
    write("socket.yaml", &with("volumes: ['/run/docker.sock:/s']"));
    write("variable.yaml", &with("network_mode: '${MODE}'"));
    write(
        "extends.yaml",
        "services: {a: {extends: {file: /etc/passwd, service: b}}}\n",
    );
    write(
        "include.yaml",
        "include: [/etc/passwd]\nservices: {a: {image: a}}\n",
    );
    write("build.yaml", "services: {a: {build: {context: /etc}}}\n");
    for (name, target) in [
        ("data", "/etc"),
        ("link.yaml", "/etc/passwd"),
        ("sub", "good"),
        ("up", ".."),
    ] {
        symlink(target, site.git.file(name).expect("a place")).expect("a link");
    }
    site.git.commit().expect("a commit");
    let from = |path: &str| {
        compose(&format!(
            "env: {{MODE: host}}\n  git: {{url: '{}', path: '{path}'}}",
            site.git.url
        ))
    };
    for (path, reason, words) in [
        (
            "sub/compose.yaml",
            "invalid-spec",
            ["sub is a symbolic link", ""],
        ),
        (
            "up/work/good/compose.yaml",
            "invalid-spec",
            ["up is a symbolic link", ""],
        ),
        (
            "link.yaml",
            "invalid-spec",
            ["link.yaml is a symbolic link", ""],
        ),
        (
            "compose.yaml",
            "invalid-spec",
            ["services.a.volumes[0]", "symbolic link"],
        ),
        (
            "missing.yaml",
            "invalid-spec",
            ["missing.yaml", "not there"],
        ),
        ("bomb.yaml", "invalid-spec", ["bomb.yaml", ""]),
        (
            "privileged.yaml",
            "permission-denied",
            ["services.a.privileged", ""],
        ),
        (
            "host.yaml",
            "permission-denied",
            ["services.a.volumes[0]", ""],
        ),
        (
            "socket.yaml",
            "permission-denied",
            ["services.a.volumes[0]", ""],
        ),
        (
            "outside/app.yaml",
            "permission-denied",
            ["services.a.volumes[0]", ""],
        ),
        (
            "outside/env.yaml",
            "invalid-spec",
            ["services.a.env_file", "outside"],
        ),
        (
            "variable.yaml",
            "permission-denied",
            ["services.a.network_mode", ""],
        ),
        (
            "extends.yaml",
            "invalid-spec",
            ["services.a.extends.file", "outside"],
        ),
        ("include.yaml", "invalid-spec", ["include", ""]),
        (
            "build.yaml",
            "invalid-spec",
            ["services.a.build.context", "outside"],
        ),
    ] {
        refused_on_the_node(&site, &from(path), reason, &words);
    }
    // A node does not read repositories from itself, nor from a cloud's metadata.
    for (host, word) in [
        ("127.0.0.1:1", "this node itself"),
        ("169.254.169.254", "metadata"),
    ] {
        let text = compose(&format!("git: {{url: 'http://{host}/a.git'}}"));
        refused_on_the_node(
            &site,
            &text,
            "permission-denied",
            &["compose.git.url", word],
        );
    }
    let reference = format!(
        "git: {{url: '{}', ref: no-such-branch, path: good/compose.yaml}}",
        site.git.url
    );
    let words = ["compose.git.ref", "no-such-branch"];
    refused_on_the_node(&site, &compose(&reference), "invalid-spec", &words);

    site.apply(&from("good/compose.yaml"), true).expect_code(0);
    weft_e2e::eventually("the good one answers", weft_e2e::PATIENCE, || {
        site.fetch(8080, "/") == "good"
    });
    site.delete("default", "app");
    site.wait_until_nothing_is_left();
}

/// The digest of the first layer of a pushed image.
fn layer_of(site: &Site, digest: &str) -> String {
    let manifest = std::fs::read(site.registry.blob(digest)).expect("the manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let layer = manifest["layers"][0]["digest"].as_str();
    layer.expect("a layer").to_owned()
}

#[test]
fn images_that_are_not_what_they_say_are_refused() {
    let Some(site) = Site::up(false) else {
        return;
    };
    let mut number = 0;
    let mut bad = |image: &BadImage| {
        number += 1;
        image.push(&site, &format!("bad{number}"))
    };
    let outside = site.cluster.dir.path().join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    let outside_text = outside.display().to_string();
    let upwards = format!("../../../../../../../..{outside_text}/owned");
    let members: [(Vec<Member>, &str); 7] = [
        (vec![Member::file(&upwards)], "leaves the layer"),
        (
            vec![Member::file(&format!("{outside_text}/owned"))],
            "absolute path",
        ),
        (
            vec![
                Member::link("way", &outside_text),
                Member::file("way/owned"),
            ],
            "way/owned",
        ),
        (
            vec![
                Member::link("way", "../../../../../../.."),
                Member::file("way/tmp/owned"),
            ],
            "way/tmp/owned",
        ),
        (
            vec![Member::hard_link("shadow", "../../../etc/shadow")],
            "leaves the layer",
        ),
        (vec![Member::block_device("disk", 8, 0)], "is a device"),
        (vec![Member::char_device("kmsg", 1, 11)], "is a device"),
    ];
    for (members, word) in members {
        let image = bad(&BadImage::of(&members));
        refused_on_the_node(&site, &container(&image, ""), "artifact-corrupt", &[word]);
    }
    let image = bad(&BadImage::bomb(300 << 20));
    let words = ["more than 200 times its size"];
    refused_on_the_node(&site, &container(&image, ""), "artifact-corrupt", &words);
    assert_eq!(std::fs::read_dir(&outside).expect("it is there").count(), 0);

    // The registry gives other bytes than it promised.
    let pushed = site.push("tampered:1", &web_image("one", true));
    let layer = layer_of(&site, &pushed.digest);
    let blob = site.registry.blob(&layer);
    let good = std::fs::read(&blob).expect("the layer");
    let mut other = good.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    std::fs::write(&blob, &other).expect("another layer");
    let hex = layer.trim_start_matches("sha256:");
    let text = container(&pushed.digested, "");
    refused_on_the_node(&site, &text, "artifact-corrupt", &[hex]);
    std::fs::write(&blob, &good).expect("the layer again");

    let manifest = site.registry.blob(&pushed.digest);
    let good = std::fs::read(&manifest).expect("the manifest");
    let mut other = good.clone();
    other.push(b' ');
    std::fs::write(&manifest, &other).expect("another manifest");
    let hex = pushed.digest.trim_start_matches("sha256:");
    refused_on_the_node(&site, &text, "artifact-corrupt", &[hex]);
    std::fs::write(&manifest, &good).expect("the manifest again");

    let missing = format!(
        "{}@sha256:{}",
        pushed.tagged.trim_end_matches(":1"),
        "0".repeat(64)
    );
    refused_on_the_node(
        &site,
        &container(&missing, ""),
        "image-not-found",
        &["0000"],
    );

    site.apply(&container(&pushed.digested, "ports: ['8080:80']"), true)
        .expect_code(0);
    eventually("the good one answers", PATIENCE, || {
        site.fetch(8080, "/") == "one"
    });
    site.delete("default", "app");
    site.wait_until_nothing_is_left();
}

#[test]
fn a_link_inside_a_volume_does_not_lead_out_of_it() {
    let Some(site) = Site::up(false) else {
        return;
    };
    let image = site.push("web:1", &web_image("one", true)).tagged;
    let volume = "target: /data, class: local, name: data";
    let plant = container(&image, &format!("volumes: [{{{volume}}}]"));
    site.apply(&plant, true).expect_code(0);
    let exec = [
        "exec",
        "app",
        "--",
        "sh",
        "-c",
        "ln -s /etc /data/way && mkdir /data/good",
    ];
    site.cluster.weft(exec).run().expect_code(0);
    // Another container of the same workload gets the volume, by way of the link.
    let through =
        |sub: &str| container(&image, &format!("volumes: [{{{volume}, sub_path: {sub}}}]"));
    site.apply(&through("way"), false).expect_code(0);
    let refused = site.wait_for("default", "app", "is refused", |service| {
        let detail = service["detail"].as_str().unwrap_or_default();
        detail.contains("sub_path") && detail.contains("symbolic link")
    });
    assert!(refused["reason"].is_string(), "{refused}");
    site.apply(&through("good"), true).expect_code(0);
    let exec = ["exec", "app", "--", "sh", "-c", "ls -A /data | wc -l"];
    let said = site.cluster.weft(exec).run().expect_code(0);
    assert_eq!(said.stdout.trim(), "0");
    site.delete("default", "app");
    site.wait_until_nothing_is_left();
}
