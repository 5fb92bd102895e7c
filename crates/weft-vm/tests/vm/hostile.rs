//! Images and specifications that mean harm.

use std::process::Command;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use tokio::sync::watch;
use weft_types::{BlobHash, Bytes, DiskSpec, ImageFormat, NetworkSpec, Reason, Retain, VmImage};
use weft_unit::{CleanPolicy, UnitRuntime};
use weft_vm::Vms;

use crate::support::http::Server;
use crate::support::{Files, Lab, blob, fresh_id, spec, unit};

fn by_url(url: String, content: &[u8]) -> Option<VmImage> {
    Some(VmImage {
        url: Some(url),
        sha256: Some(hex::encode(digest(&SHA256, content))),
        blob: None,
        format: ImageFormat::Raw,
    })
}

/// Prepares a unit whose kernel is at a URL; removes it again.
async fn prepared(vms: &Vms, image: Option<VmImage>) -> Result<(), (Reason, String)> {
    let mut spec = spec("", "");
    spec.kernel = image;
    let unit = unit(fresh_id(), spec);
    let outcome = vms
        .prepare(&unit, &watch::Sender::new(String::new()))
        .await
        .map_err(|error| (error.reason, error.detail));
    vms.remove(unit.id, false).await.unwrap();
    outcome
}

#[tokio::test]
async fn images_come_only_from_where_they_may_and_as_they_should_be() {
    let Some(lab) = Lab::new("fetch") else {
        return;
    };
    let server = Server::start(vec![("good", b"a kernel".to_vec())]).await;
    let mut options = lab.options();
    options.max_image_bytes = 1 << 20;
    let vms = Vms::open(options.clone()).await.unwrap();
    let refused = |outcome: Result<(), (Reason, String)>| outcome.unwrap_err();

    let wrong = prepared(&vms, by_url(server.url("good"), b"another")).await;
    let (reason, detail) = refused(wrong);
    assert_eq!(reason, Reason::ArtifactCorrupt);
    assert!(detail.contains("has SHA-256"), "{detail}");
    let missing = prepared(&vms, by_url(server.url("none"), b"")).await;
    assert_eq!(refused(missing).0, Reason::ImageNotFound);
    let endless = prepared(&vms, by_url(server.url("endless"), b"")).await;
    assert!(refused(endless).1.contains("larger than 1048576 bytes"));

    let direct = prepared(&vms, by_url("http://169.254.169.254/x".to_owned(), b"")).await;
    assert_eq!(refused(direct).0, Reason::PermissionDenied);
    for to in [
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "file:///etc/passwd",
    ] {
        let image = by_url(server.redirect(to), b"");
        let (_, detail) = refused(prepared(&vms, image).await);
        // What is neither http nor https is not even followed.
        let why = detail.contains("may not fetch from") || detail.contains("answers 302");
        assert!(why, "{to}: {detail}");
    }
    let images = lab.dir.path().join("data,with comma/images");
    let kept = |dir| std::fs::read_dir(dir).map_or(0, Iterator::count);
    let before = kept(&images);

    let again = server.redirect(&server.url("good"));
    prepared(&vms, by_url(again, b"a kernel")).await.unwrap();
    // The kernel and the initial RAM disk, and nothing partial.
    assert_eq!(kept(&images), before + 2);
    let everything = CleanPolicy {
        unused_for: std::time::Duration::ZERO,
        min_free_bytes: 0,
    };
    let cleaned = vms.clean(everything).await.unwrap();
    assert!(cleaned.items >= 1 && kept(&images) == 0, "{cleaned:?}");

    options.allow_private_urls = false;
    let public_only = Vms::open(options).await.unwrap();
    let private = prepared(&public_only, by_url(server.url("good"), b"a kernel")).await;
    assert_eq!(refused(private).0, Reason::PermissionDenied);
    let named = server.url("good").replace("127.0.0.1", "localhost");
    let (_, detail) = refused(prepared(&public_only, by_url(named, b"a kernel")).await);
    assert!(detail.contains("may not fetch from"), "{detail}");
}

#[tokio::test]
async fn image_that_names_other_files_is_refused() {
    let Some(lab) = Lab::new("backing") else {
        return;
    };
    let secret = lab.dir.path().join("secret");
    std::fs::write(&secret, "of the node").unwrap();
    let create = |name: &str, options: &[&str]| {
        let image = lab.dir.path().join(name);
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .args(options)
            .arg(&image)
            .arg("1M")
            .status()
            .unwrap();
        assert!(made.success());
        image
    };
    let secret = secret.display().to_string();
    let elsewhere = format!("data_file={}/data", lab.dir.path().display());
    let images = [
        create("backed.qcow2", &["-F", "raw", "-b", &secret]),
        create("split.qcow2", &["-o", &elsewhere]),
        lab.dir.path().join("secret"),
    ];
    for (index, image) in images.into_iter().enumerate() {
        let hash = BlobHash([index as u8 + 10; 32]);
        let mut options = lab.options();
        options.artifacts = Some(Arc::new(Files([(hash, image)].into())));
        let vms = Vms::open(options).await.unwrap();
        let mut spec = spec("", "");
        spec.image = blob(hash).map(|image| VmImage {
            format: ImageFormat::Qcow2,
            ..image
        });
        (spec.kernel, spec.initrd, spec.cmdline) = (None, None, None);
        let unit = unit(fresh_id(), spec);
        let progress = watch::Sender::new(String::new());
        let refused = vms.prepare(&unit, &progress).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidSpec, "{refused}");
        assert!(refused.detail.starts_with("vm.image"), "{refused}");
        vms.remove(unit.id, false).await.unwrap();
    }
    assert_eq!(lab.leftovers(), [""; 0]);
}

#[tokio::test]
async fn names_that_would_reach_paths_or_command_lines_are_refused() {
    let Some(lab) = Lab::new("names") else {
        return;
    };
    let vms = lab.open().await;
    let disk = |name: &str, pool: &str| DiskSpec {
        name: name.to_owned(),
        size: Bytes(1 << 20),
        pool: Some(pool.to_owned()),
        retain: Retain::Delete,
    };
    let mut specs = Vec::new();
    for (name, pool) in [
        ("../x", "default"),
        ("a,readonly=on", "default"),
        ("ok", "../../etc"),
        ("ok", "unknown"),
    ] {
        let mut spec = spec("", "");
        spec.disks = vec![disk(name, pool)];
        specs.push(spec);
    }
    for (bridge, mac) in [
        ("br0,script=/tmp/x", "52:54:00:00:00:01"),
        ("../../x", "52:54:00:00:00:01"),
        ("lo", "52:54:00:00:00:01,x=y"),
        ("lo", "52:54:00:00:00:01"),
    ] {
        let mut spec = spec("", "");
        spec.networks = vec![NetworkSpec {
            mode: weft_types::VmNetworkMode::Bridge,
            bridge: Some(bridge.to_owned()),
            mac: Some(mac.to_owned()),
            ..NetworkSpec::default()
        }];
        specs.push(spec);
    }
    let mut pool = spec("", "");
    pool.root_pool = Some("..".to_owned());
    specs.push(pool);
    for spec in specs {
        let unit = unit(fresh_id(), spec);
        let progress = watch::Sender::new(String::new());
        let outcome = vms.prepare(&unit, &progress).await;
        let shown = format!("{:?}", unit.work);
        assert_eq!(
            outcome.map_err(|e| e.reason),
            Err(Reason::InvalidSpec),
            "{shown}"
        );
        vms.remove(unit.id, false).await.unwrap();
    }
    assert_eq!(lab.leftovers(), [""; 0]);
}
