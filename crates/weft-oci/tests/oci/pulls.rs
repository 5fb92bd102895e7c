//! Images from registries that want credentials, or cannot be trusted.

use weft_types::Reason;
use weft_unit::conformance::images::{self, Registry};
use weft_unit::conformance::pull_policies;
use weft_unit::{Credentials, Progress, UnitRuntime};

use crate::ground::{Ground, of_spec, unit, with_ground};

pub fn credentials_open_a_registry() {
    with_ground(&["htpasswd"], async |ground: &Ground| {
        let dir = ground.dir.path();
        let registry = Registry::with_password(dir, "weft", "s3cret").expect("a registry");
        let image = images::busybox(dir, "private", &[]).expect("an image");
        let pushed = registry.push(&image, "private:1").expect("a push");
        let node = ground.node("credentials");
        let backend = node.open();
        let mut unit = unit(&pushed.tagged, &[]);
        let progress = Progress::new(String::new());
        let refused = backend
            .prepare(&unit, &progress)
            .await
            .expect_err("no name");
        assert_eq!(refused.reason, Reason::PermissionDenied, "{refused}");
        let credentials = |password: &str| Credentials {
            username: "weft".into(),
            password: password.into(),
        };
        unit.secrets.registry = Some(credentials("wrong"));
        let refused = backend.prepare(&unit, &progress).await.expect_err("wrong");
        assert_eq!(refused.reason, Reason::PermissionDenied, "{refused}");
        assert!(!refused.to_string().contains("wrong"), "{refused}");
        unit.secrets.registry = Some(credentials("s3cret"));
        backend.prepare(&unit, &progress).await.expect("prepared");
        assert!(
            progress.borrow().contains("layers"),
            "{:?}",
            progress.borrow()
        );
    });
}

pub fn tampered_blobs_are_refused() {
    with_ground(&[], async |ground: &Ground| {
        let node = ground.node("tampered");
        let backend = node.open();
        let manifest = ground.registry.blob(&ground.image.digest);
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(manifest).expect("a manifest")).expect("JSON");
        let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
        let file = ground.registry.blob(layer);
        let whole = std::fs::read(&file).expect("a blob");
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let short = whole[..middle].to_vec();
        let long = [whole.as_slice(), b"more"].concat();
        let progress = Progress::new(String::new());
        let unit = unit(&ground.image.tagged, &[]);
        for (what, bytes) in [("flipped", flipped), ("short", short), ("long", long)] {
            std::fs::write(&file, bytes).expect("written");
            let refused = backend.prepare(&unit, &progress).await.expect_err(what);
            let told = [Reason::ArtifactCorrupt, Reason::ImagePullFailed];
            assert!(told.contains(&refused.reason), "{what}: {refused}");
        }
        std::fs::write(&file, whole).expect("written");
        backend.prepare(&unit, &progress).await.expect("prepared");
        let layers = std::fs::read_dir(node.data_dir.join("oci/layers")).expect("layers");
        assert!(layers.count() > 0);
    });
}

pub fn registries_are_asked_as_the_policy_says() {
    with_ground(&["crun"], async |ground: &Ground| {
        let node = ground.node("policies");
        let backend = node.open();
        let fresh = |spec| of_spec(unit("", &[]).id, spec);
        let dir = ground.dir.path();
        let passed = pull_policies(&backend, &ground.registry, dir, &fresh).await;
        passed.expect("the policies are heeded");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}
