use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{EntryType, Header};

use super::*;

/// An archive in the making; names are written as they are given.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, body: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_device_major(8).unwrap();
        header.set_device_minor(1).unwrap();
        header.set_cksum();
        self.0.append(&header, body).unwrap();
        self
    }

    fn file(self, name: &str, body: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", body)
    }

    fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A directory to unpack in, and a file beside it that nothing may touch.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("layer")).unwrap();
        std::fs::write(dir.path().join("victim"), "whole").unwrap();
        Self { dir }
    }

    fn layer(&self) -> std::path::PathBuf {
        self.dir.path().join("layer")
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, Error> {
        unpack_layer(archive, Compression::None, &self.layer(), Limits::default())
    }

    fn refuses(&self, archive: Archive, why: &str) {
        let error = self.unpack(&archive.bytes()).unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
        self.is_untouched();
    }

    fn is_untouched(&self) {
        let victim = std::fs::read_to_string(self.dir.path().join("victim"));
        assert_eq!(victim.unwrap(), "whole");
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 2);
        assert_eq!(
            std::fs::metadata(self.dir.path().join("victim"))
                .unwrap()
                .nlink(),
            1
        );
    }
}

#[test]
fn paths_that_leave_the_layer_are_refused() {
    let place = Place::new();
    place.refuses(Archive::new().file("../victim", b"x"), "leaves the layer");
    place.refuses(
        Archive::new().file("a/../../victim", b"x"),
        "leaves the layer",
    );
    place.refuses(Archive::new().file("/etc/weft-test", b"x"), "absolute");
    let long = Archive::new()
        .pax(&[("path", b"../victim")])
        .file("a", b"x");
    place.refuses(long, "leaves the layer");
    let name = format!("a/{}", "n".repeat(300));
    let long = Archive::new()
        .pax(&[("path", name.as_bytes())])
        .file("a", b"x");
    place.refuses(long, "too long");
}

#[test]
fn parents_that_are_links_are_refused() {
    let place = Place::new();
    let out = Archive::new().symlink("out", "..").file("out/victim", b"x");
    place.refuses(out, "symbolic link");
    let place = Place::new();
    let inside = Archive::new()
        .dir("real")
        .symlink("in", "real")
        .file("in/x", b"x");
    place.refuses(inside, "symbolic link");
    let place = Place::new();
    let deep = Archive::new()
        .symlink("out", "../../../tmp")
        .dir("out/made/deep");
    place.refuses(deep, "symbolic link");
}

#[test]
fn a_link_is_replaced_and_not_followed() {
    let place = Place::new();
    let archive = Archive::new().symlink("x", "../victim").file("x", b"mine");
    place.unpack(&archive.bytes()).unwrap();
    let found = std::fs::symlink_metadata(place.layer().join("x")).unwrap();
    assert!(found.is_file());
    place.is_untouched();
}

#[test]
fn hard_links_stay_inside() {
    let place = Place::new();
    place.refuses(
        Archive::new().hardlink("x", "../victim"),
        "leaves the layer",
    );
    place.refuses(Archive::new().hardlink("x", "/etc/passwd"), "absolute");
    let through = Archive::new()
        .symlink("out", "..")
        .hardlink("x", "out/victim");
    place.refuses(through, "symbolic link");
    place.refuses(
        Archive::new().hardlink("x", "missing"),
        "not a file of this layer",
    );
    let place = Place::new();
    let good = Archive::new().file("a", b"same").hardlink("b", "a");
    place.unpack(&good.bytes()).unwrap();
    assert_eq!(
        std::fs::metadata(place.layer().join("b")).unwrap().nlink(),
        2
    );
}

#[test]
fn devices_are_refused() {
    let place = Place::new();
    let disk = |name| Archive::new().entry(EntryType::Block, name, "", b"");
    place.refuses(disk("sda1"), "devices");
    place.refuses(disk("dev/sda1"), "devices");
    let kmem = Archive::new().entry(EntryType::Char, "dev/mem", "", b"");
    place.refuses(kmem, "devices");
    let covered = Archive::new().entry(EntryType::Char, "dev/null", "", b"");
    place.unpack(&covered.bytes()).unwrap();
    assert!(!place.layer().join("dev/null").exists());
}

#[test]
fn bombs_are_stopped() {
    let place = Place::new();
    let many = (0..20).fold(Archive::new(), |archive, n| {
        archive.file(&format!("f{n}"), b"")
    });
    let limits = Limits {
        entries: 10,
        ..Limits::default()
    };
    let unpacked = unpack_layer(&many.bytes()[..], Compression::None, &place.layer(), limits);
    assert!(
        unpacked
            .unwrap_err()
            .to_string()
            .contains("more than 10 entries")
    );

    let big = Archive::new().file("big", &vec![0; 1 << 20]).bytes();
    let limits = Limits {
        bytes: 1 << 16,
        ..Limits::default()
    };
    let unpacked = unpack_layer(&big[..], Compression::None, &place.layer(), limits);
    assert!(
        unpacked
            .unwrap_err()
            .to_string()
            .contains("more than 65536 bytes")
    );

    let header = vec![b'x'; 2 << 20];
    let extended = Archive::new().pax(&[("comment", &header)]).file("a", b"");
    Place::new().refuses(extended, "a header of");
}

#[test]
fn a_gzip_bomb_is_stopped_by_its_ratio() {
    let place = Place::new();
    let mut header = Header::new_gnu();
    let size = 400u64 << 20;
    header.set_path("zeros").unwrap();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..400 {
        gzip.write_all(&zeros).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    let limits = Limits {
        ratio: 50,
        ..Limits::default()
    };
    let unpacked = unpack_layer(&bomb[..], Compression::Gzip, &place.layer(), limits);
    assert!(
        unpacked
            .unwrap_err()
            .to_string()
            .contains("50 times its size")
    );
}

#[test]
fn what_is_cut_off_or_no_archive_is_refused() {
    let whole = Archive::new().file("a", &[7; 4096]).bytes();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let place = Place::new();
        let unpacked = unpack_layer(
            &whole[..1000],
            compression,
            &place.layer(),
            Limits::default(),
        );
        assert!(matches!(unpacked, Err(Error::Corrupt(_))), "{unpacked:?}");
    }
}

#[test]
fn whiteouts_become_what_overlayfs_understands() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let place = Place::new();
    let archive = Archive::new()
        .dir("d")
        .file("d/.wh.gone", b"")
        .dir("o")
        .file("o/.wh..wh..opq", b"")
        .file("o/new", b"x");
    place.unpack(&archive.bytes()).unwrap();
    let gone = std::fs::symlink_metadata(place.layer().join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0u8; 1];
    let opaque = place.layer().join("o");
    rustix::fs::lgetxattr(&opaque, "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value, b"y");
    place.refuses(Archive::new().file("d/.wh...", b""), "whiteout of nothing");
}

#[test]
fn attributes_are_kept_but_not_those_that_steer_overlayfs() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let place = Place::new();
    let mut header = Header::new_gnu();
    header.set_path("su").unwrap();
    header.set_size(1);
    header.set_mode(0o4755);
    header.set_uid(0);
    header.set_gid(50);
    header.set_mtime(1_000_000);
    header.set_cksum();
    let mut archive = Archive::new().pax(&[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.note", b"kept"),
    ]);
    archive.0.append(&header, &b"x"[..]).unwrap();
    place.unpack(&archive.bytes()).unwrap();
    let su = place.layer().join("su");
    let found = std::fs::metadata(&su).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o4755);
    assert_eq!((found.gid(), found.mtime()), (50, 1_000_000));
    let mut value = [0u8; 8];
    let steering = rustix::fs::lgetxattr(&su, "trusted.overlay.redirect", &mut value[..]);
    assert!(steering.is_err());
}

#[test]
fn the_digest_is_of_the_whole_archive() {
    let archive = Archive::new().file("a", b"x").bytes();
    let unpacked = Place::new().unpack(&archive).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&archive));
    assert_eq!(unpacked.bytes, archive.len() as u64);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive).unwrap();
    let zipped = gzip.finish().unwrap();
    let place = Place::new();
    let limits = Limits::default();
    let unzipped = unpack_layer(&zipped[..], Compression::Gzip, &place.layer(), limits).unwrap();
    assert_eq!(unzipped, unpacked);
}

#[test]
fn zstandard_in_several_frames_is_unpacked() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let archive = Archive::new().file("a", &[9; 70_000]).bytes();
    let (left, right) = archive.split_at(archive.len() / 2);
    // A frame that is to be skipped lies between the two.
    let skipped = [
        &0x184D_2A50u32.to_le_bytes()[..],
        &3u32.to_le_bytes(),
        b"abc",
    ]
    .concat();
    let whole = [
        compress_to_vec(left, CompressionLevel::Fastest),
        skipped,
        compress_to_vec(right, CompressionLevel::Fastest),
    ]
    .concat();
    let place = Place::new();
    let limits = Limits::default();
    let unpacked = unpack_layer(&whole[..], Compression::Zstd, &place.layer(), limits).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&archive));
}
