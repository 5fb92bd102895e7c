use std::fs::{read, write};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn unit(number: u32) -> UnitId {
    UnitId {
        workload: WorkloadId(7),
        number,
    }
}

fn local(target: &str) -> VolumeSpec {
    VolumeSpec {
        target: target.to_owned(),
        class: Some(VolumeClass::Local),
        ..VolumeSpec::default()
    }
}

struct Node {
    dir: tempfile::TempDir,
    volumes: Volumes,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volumes = open(dir.path(), Tools::default());
        Self { dir, volumes }
    }

    fn has_workload(&self) -> bool {
        let dir = self.dir.path().join("volumes");
        dir.join(WorkloadId(7).to_string()).exists()
    }

    async fn mount(&self, number: u32, spec: &VolumeSpec) -> Result<Mounted, Error> {
        self.volumes.mount(unit(number), spec, false).await
    }
}

/// Nothing stays mounted, also when a test fails.
impl Drop for Node {
    fn drop(&mut self) {
        let _ = mounts::unmount_all(self.dir.path());
    }
}

fn open(dir: &Path, tools: Tools) -> Volumes {
    let options = Options {
        dir: dir.join("volumes"),
        host_paths: HostPaths::refusing([dir.join("volumes")]),
    };
    Volumes::with_tools(options, tools).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn each_replica_has_its_own_and_a_successor_takes_it_over() {
    let node = Node::new();
    let spec = local("/data");
    let first = node.mount(1, &spec).await.unwrap();
    let second = node.mount(2, &spec).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(node.mount(1, &spec).await.unwrap(), first);
    write(first.host_path.join("x"), "of the first").unwrap();
    assert_eq!(node.volumes.list().await.unwrap(), [unit(1), unit(2)]);

    node.volumes.release(unit(1), true).await.unwrap();
    let third = node.mount(3, &spec).await.unwrap();
    assert_eq!(read(third.host_path.join("x")).unwrap(), b"of the first");

    for number in [2, 3] {
        node.volumes.release(unit(number), false).await.unwrap();
        node.volumes.release(unit(number), false).await.unwrap();
    }
    assert!(!node.has_workload());
    assert!(node.volumes.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_to_be_retained_stays() {
    let node = Node::new();
    let spec = VolumeSpec {
        retain: Retain::Retain,
        ..local("/data")
    };
    let mounted = node.mount(1, &spec).await.unwrap();
    write(mounted.host_path.join("x"), "kept").unwrap();
    node.volumes.release(unit(1), false).await.unwrap();
    node.volumes.forget(WorkloadId(7)).await.unwrap();
    assert!(node.volumes.list().await.unwrap().is_empty());
    assert_eq!(read(mounted.host_path.join("x")).unwrap(), b"kept");
}

#[tokio::test]
async fn what_was_left_for_a_successor_goes_with_the_last_unit_or_is_forgotten() {
    let node = Node::new();
    for forgets in [false, true] {
        node.mount(1, &local("/data")).await.unwrap();
        node.mount(2, &local("/data")).await.unwrap();
        node.volumes.release(unit(1), true).await.unwrap();
        node.volumes.release(unit(2), forgets).await.unwrap();
        assert_eq!(node.has_workload(), forgets);
        node.volumes.forget(WorkloadId(7)).await.unwrap();
        assert!(!node.has_workload());
    }
}

#[tokio::test]
async fn shared_volumes_go_with_their_last_holder() {
    let node = Node::new();
    let spec = VolumeSpec {
        access_mode: AccessMode::ReadWriteMany,
        name: Some("common".to_owned()),
        ..local("/data")
    };
    let first = node.mount(1, &spec).await.unwrap();
    assert_eq!(node.mount(2, &spec).await.unwrap(), first);
    let reader = VolumeSpec {
        access_mode: AccessMode::ReadOnlyMany,
        ..spec
    };
    let second = node.mount(3, &reader).await.unwrap();
    assert_eq!(second.host_path, first.host_path);
    assert!(second.read_only && !first.read_only);
    let mode = first.host_path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
    for number in [1, 2] {
        node.volumes.release(unit(number), false).await.unwrap();
        assert!(first.host_path.exists());
    }
    node.volumes.release(unit(3), false).await.unwrap();
    assert!(!node.has_workload());
}

#[tokio::test]
async fn sub_paths_are_bound_and_links_in_them_are_refused() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let node = Node::new();
    let named = VolumeSpec {
        name: Some("one".to_owned()),
        ..local("/data")
    };
    let plain = node.mount(1, &named).await.unwrap();
    let inner = VolumeSpec {
        target: "/inner".to_owned(),
        sub_path: Some("a/b".to_owned()),
        ..named
    };
    let bound = node.mount(1, &inner).await.unwrap();
    assert_eq!(node.mount(1, &inner).await.unwrap(), bound);
    write(bound.host_path.join("x"), "through the bind").unwrap();
    assert!(plain.host_path.join("a/b/x").exists());

    symlink("/etc", plain.host_path.join("out")).unwrap();
    symlink("../../../..", plain.host_path.join("up")).unwrap();
    for path in ["out", "up", "a/../..", "out/ssl"] {
        let spec = VolumeSpec {
            sub_path: Some(path.to_owned()),
            ..inner.clone()
        };
        let error = node.mount(1, &spec).await.unwrap_err();
        let is_refused = matches!(error, Error::SubPathRefused { .. });
        assert!(is_refused, "{path}: {error}");
    }
    // A directory that was swapped for a link after the bind changes nothing.
    std::fs::rename(plain.host_path.join("a/b"), plain.host_path.join("c")).unwrap();
    symlink("/etc", plain.host_path.join("a/b")).unwrap();
    assert!(bound.host_path.join("x").exists());
    assert!(node.mount(1, &inner).await.is_err());

    node.volumes.release(unit(1), false).await.unwrap();
    assert!(!node.has_workload());
    assert!(mounts::beneath(node.dir.path()).unwrap().is_empty());
    assert!(Path::new("/etc/passwd").exists());
}

#[tokio::test]
async fn host_paths_are_bound_unless_refused() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let node = Node::new();
    let there = tempfile::tempdir().unwrap();
    write(there.path().join("file"), "of the node").unwrap();
    let host = |path: &Path| VolumeSpec {
        target: "/host".to_owned(),
        host: Some(path.display().to_string()),
        read_only: true,
        ..VolumeSpec::default()
    };
    for (path, inside) in [
        (there.path().to_owned(), "file"),
        (there.path().join("file"), ""),
    ] {
        let mounted = node.mount(1, &host(&path)).await.unwrap();
        assert!(mounted.read_only);
        let file = mounted.host_path.join(inside);
        let file = file.to_str().unwrap().trim_end_matches('/');
        assert_eq!(read(file).unwrap(), b"of the node");
    }
    for path in ["/", "/etc", "/proc"] {
        let error = node.mount(1, &host(Path::new(path))).await.unwrap_err();
        assert!(matches!(error, Error::HostRefused { .. }), "{error}");
        let spec = host(Path::new(path));
        let allowed = node.volumes.mount(unit(1), &spec, true).await.unwrap();
        assert_eq!(allowed.host_path, Path::new(path).canonicalize().unwrap());
    }
    assert_eq!(node.volumes.list().await.unwrap(), [unit(1)]);
    node.volumes.release(unit(1), false).await.unwrap();
    assert!(there.path().join("file").exists());
    assert!(mounts::beneath(node.dir.path()).unwrap().is_empty());
}

#[tokio::test]
async fn a_volume_of_a_size_holds_no_more_and_survives_its_mount() {
    if !is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: needs root and loop devices");
        return;
    }
    let node = Node::new();
    let spec = VolumeSpec {
        size: Some(weft_types::Bytes(16 << 20)),
        ..local("/data")
    };
    let mounted = node.mount(1, &spec).await.unwrap();
    let file = mounted.host_path.join("x");
    write(&file, "kept").unwrap();
    let too_much = vec![1; 32 << 20];
    assert!(write(mounted.host_path.join("y"), too_much).is_err());
    // As after a restart of the node: the mount is gone, the data are not.
    mounts::unmount_all(node.dir.path()).unwrap();
    assert!(!file.exists());
    assert_eq!(node.mount(1, &spec).await.unwrap(), mounted);
    assert_eq!(read(&file).unwrap(), b"kept");

    let grown = VolumeSpec {
        size: Some(weft_types::Bytes(32 << 20)),
        ..spec.clone()
    };
    let error = node.mount(1, &grown).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");

    node.volumes.release(unit(1), true).await.unwrap();
    assert!(mounts::beneath(node.dir.path()).unwrap().is_empty());
    let next = node.mount(2, &spec).await.unwrap();
    assert_eq!(read(next.host_path.join("x")).unwrap(), b"kept");
    node.volumes.release(unit(2), false).await.unwrap();
    assert!(!node.has_workload());
}

#[tokio::test]
async fn a_file_system_that_cannot_be_made_is_told_and_leaves_nothing() {
    let node = Node::new();
    let spec = VolumeSpec {
        size: Some(weft_types::Bytes(1 << 20)),
        fs_type: Some("xfs".to_owned()),
        ..local("/data")
    };
    let error = node.mount(1, &spec).await.unwrap_err();
    let is_told = matches!(error, Error::Failed { .. } | Error::Missing { .. });
    assert!(is_told, "{error}");
    assert_eq!(node.volumes.list().await.unwrap(), [unit(1)]);
    node.volumes.release(unit(1), false).await.unwrap();
    assert!(!node.has_workload());
}

#[tokio::test]
async fn two_processes_do_not_take_the_same_slot() {
    let node = Node::new();
    let others: Vec<Volumes> = (0..8)
        .map(|_| open(node.dir.path(), Tools::default()))
        .collect();
    let spec = local("/data");
    let mut tasks = Vec::new();
    for (number, volumes) in (1..).zip(others) {
        let spec = spec.clone();
        tasks.push(tokio::spawn(async move {
            let mounted = volumes.mount(unit(number), &spec, false).await.unwrap();
            let path = mounted.host_path;
            volumes
                .release(unit(number), number % 2 == 0)
                .await
                .unwrap();
            volumes.mount(unit(number), &spec, false).await.unwrap();
            path
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut paths = Vec::new();
    for number in 1..=8 {
        paths.push(node.mount(number, &spec).await.unwrap().host_path);
    }
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 8);
}

#[tokio::test]
async fn what_was_half_made_or_half_removed_is_nobodys() {
    let node = Node::new();
    let slot = node.dir.path().join("volumes");
    let slot = slot.join(WorkloadId(7).to_string()).join("@data/0");
    std::fs::create_dir_all(slot.join("data")).unwrap();
    write(slot.join("data/x"), "of one that is gone").unwrap();
    let mounted = node.mount(1, &local("/data")).await.unwrap();
    assert_eq!(mounted.host_path, slot.canonicalize().unwrap().join("data"));
    assert!(!mounted.host_path.join("x").exists());
}

/// An `rbd` whose devices are loop devices: what Weft asks of it is checked, not Ceph.
const RBD: &str = r#"#!/bin/sh
set -e
dir=$(dirname "$0")
echo "$@" >> "$dir/log"
for last; do :; done
image="$dir/$(echo "$last" | tr / _)"
case "$1 $2" in
"info "*) test -e "$image" ;;
"create "*) truncate -s "$3" "$image" ;;
"device list") if test -e "$dir/mapped"; then cat "$dir/mapped"; else echo '[]'; fi ;;
"device map")
    device=$(losetup --show -f "$image")
    echo "[{\"pool\":\"pool\",\"name\":\"one\",\"device\":\"$device\"}]" > "$dir/mapped"
    echo "$device" ;;
"device unmap") losetup -d "$3"; rm "$dir/mapped" ;;
"rm "*) rm "$image" ;;
*) exit 9 ;;
esac
"#;

#[tokio::test]
async fn block_devices_are_made_mapped_and_taken_back() {
    if !is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("skipped: needs root and loop devices");
        return;
    }
    let tools_dir = tempfile::tempdir().unwrap();
    let rbd = tools_dir.path().join("rbd");
    write(&rbd, RBD).unwrap();
    std::fs::set_permissions(&rbd, PermissionsExt::from_mode(0o755)).unwrap();
    let mut node = Node::new();
    let tools = Tools {
        first: Some(tools_dir.path().to_owned()),
    };
    node.volumes = open(node.dir.path(), tools);
    let spec = VolumeSpec {
        class: Some(VolumeClass::CephRbd),
        source: Some("pool/one".to_owned()),
        size: Some(weft_types::Bytes(16 << 20)),
        ..local("/data")
    };
    let mounted = node.mount(1, &spec).await.unwrap();
    write(mounted.host_path.join("x"), "kept").unwrap();
    assert_eq!(node.mount(1, &spec).await.unwrap(), mounted);
    let error = node.mount(2, &spec).await.unwrap_err();
    assert!(matches!(error, Error::Held { .. }), "{error}");
    node.volumes.release(unit(1), true).await.unwrap();
    let mounted = node.mount(2, &spec).await.unwrap();
    assert_eq!(read(mounted.host_path.join("x")).unwrap(), b"kept");
    node.volumes.release(unit(2), false).await.unwrap();
    assert!(!tools_dir.path().join("pool_one").exists());
    assert!(!tools_dir.path().join("mapped").exists());
    let log = std::fs::read_to_string(tools_dir.path().join("log")).unwrap();
    assert!(log.contains("device map --exclusive -- pool/one"), "{log}");
}

#[tokio::test]
async fn what_a_node_lacks_is_named() {
    let node = Node::new();
    let classes = [
        (VolumeClass::Nfs, "mount.nfs", "127.0.0.1:/none"),
        (VolumeClass::CephRbd, "rbd", "pool/none"),
    ];
    for (class, program, source) in classes {
        let spec = VolumeSpec {
            class: Some(class),
            source: Some(source.to_owned()),
            ..local("/data")
        };
        let error = node.mount(1, &spec).await.unwrap_err();
        // Where the program is installed it says that the server is not there.
        let is_told = matches!(error, Error::Missing { .. } | Error::Failed { .. });
        assert!(is_told && error.to_string().contains(program), "{error}");
    }
    node.volumes.release(unit(1), false).await.unwrap();
    assert!(!node.has_workload());
}
