//! Images that no tool would make.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tar::{EntryType, Header};
use weft_e2e::Site;
use weft_unit::conformance::images::Image;

/// An entry of a layer.
pub struct Member {
    kind: EntryType,
    path: String,
    link: String,
    device: (u32, u32),
}

impl Member {
    fn new(kind: EntryType, path: &str, link: &str) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            link: link.to_owned(),
            device: (0, 0),
        }
    }

    pub fn file(path: &str) -> Self {
        Self::new(EntryType::Regular, path, "")
    }

    pub fn link(path: &str, target: &str) -> Self {
        Self::new(EntryType::Symlink, path, target)
    }

    pub fn hard_link(path: &str, target: &str) -> Self {
        Self::new(EntryType::Link, path, target)
    }

    pub fn block_device(path: &str, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(EntryType::Block, path, "")
        }
    }

    pub fn char_device(path: &str, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(EntryType::Char, path, "")
        }
    }

    /// Its header; the names are written as they are, which the `tar` crate would refuse.
    fn header(&self, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        let (major, minor) = self.device;
        header.set_device_major(major).expect("ustar has devices");
        header.set_device_minor(minor).expect("ustar has devices");
        let old = header.as_old_mut();
        assert!(self.path.len() <= old.name.len(), "{}", self.path);
        old.name[..self.path.len()].copy_from_slice(self.path.as_bytes());
        old.linkname[..self.link.len()].copy_from_slice(self.link.as_bytes());
        header.set_cksum();
        header
    }
}

/// An image with one layer.
pub struct BadImage {
    archive: Vec<u8>,
    /// Zero bytes in the last file.
    zeros: u64,
}

impl BadImage {
    /// A layer with these entries, each file a few bytes long.
    pub fn of(members: &[Member]) -> Self {
        let mut archive = Vec::new();
        for member in members {
            let body: &[u8] = match member.kind {
                EntryType::Regular => b"owned",
                _ => b"",
            };
            archive.extend_from_slice(member.header(body.len() as u64).as_bytes());
            archive.extend_from_slice(body);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        Self { archive, zeros: 0 }
    }

    /// A layer with one file of this many zero bytes.
    pub fn bomb(zeros: u64) -> Self {
        let header = Member::file("zeros").header(zeros);
        Self {
            archive: header.as_bytes().to_vec(),
            zeros,
        }
    }

    /// Puts it into the registry; its reference.
    pub fn push(&self, site: &Site, name: &str) -> String {
        let dir = site.cluster.dir.path().join(name);
        self.write(&dir);
        let layout = format!("{}:latest", dir.display());
        let pushed = site.registry.push(&Image { layout }, &format!("{name}:1"));
        pushed.expect("it is pushed").tagged
    }

    /// Writes an OCI layout.
    fn write(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("a directory");
        let put = |bytes: &[u8]| {
            let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
            let hex: String = hash
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            std::fs::write(blobs.join(&hex), bytes).expect("a blob");
            (format!("sha256:{hex}"), bytes.len())
        };
        let (layer, layer_size) = put(&self.compressed(dir));
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/run.sh"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let (config, config_size) = put(config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config, "size": config_size},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": layer, "size": layer_size}],
        });
        let (manifest, manifest_size) = put(manifest.to_string().as_bytes());
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": manifest, "size": manifest_size,
                "annotations": {"org.opencontainers.image.ref.name": "latest"}}],
        });
        let write =
            |name: &str, text: String| std::fs::write(dir.join(name), text).expect("a file");
        write("index.json", index.to_string());
        write(
            "oci-layout",
            json!({"imageLayoutVersion": "1.0.0"}).to_string(),
        );
    }

    /// The layer by `gzip`, which is quicker with much than a test is.
    fn compressed(&self, dir: &Path) -> Vec<u8> {
        let layer = dir.join("layer.gz");
        let mut gzip = Command::new("gzip")
            .arg("-9")
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(&layer).expect("a file"))
            .spawn()
            .expect("gzip runs");
        let mut stdin = gzip.stdin.take().expect("a pipe");
        stdin.write_all(&self.archive).expect("it is read");
        let zeros = vec![0; 1 << 20];
        // Two blocks of zeros end an archive.
        let mut left = self.zeros + 1_024;
        while left > 0 {
            let now = left.min(zeros.len() as u64);
            stdin.write_all(&zeros[..now as usize]).expect("it is read");
            left -= now;
        }
        drop(stdin);
        assert!(gzip.wait().expect("it ends").success());
        std::fs::read(&layer).expect("the layer")
    }
}
