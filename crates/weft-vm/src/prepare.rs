//! From a unit to the machine that it is: images fetched, disks and seed made, all written down.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_types::{ImageFormat, NetworkSpec, Reason, VmNetworkMode, VmSpec};
use weft_unit::{Error, Progress, Step, Unit, UnitWork};

use crate::machine::{Card, Disk, Kernel, Link, Machine};
use crate::record::{self, Lock, Record};
use crate::shared::Shared;
use crate::{disks, fail, images, net, seed};

/// How long a call waits for another one on the same unit.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(120);
/// The least memory that a machine is given, in bytes.
const MIN_MEMORY_BYTES: u64 = 16 << 20;
/// The command line of a kernel that is given none. Emulated on a busy node, the kernel would find
/// its timer too slow and give up.
const DEFAULT_CMDLINE: &str = "console=ttyS0 no_timer_check";
/// What a seed or a command line has in it when the guest is to print its address.
const ADDRESS_WORD: &str = "weft-address";

/// The specification of a unit, checked.
fn spec(unit: &Unit) -> Result<&VmSpec, Error> {
    let UnitWork::Vm(spec) = &unit.work else {
        return Err(fail::refused("runtime", "not a virtual machine"));
    };
    spec.check()
        .map_err(|e| Error::new(Step::Prepare, Reason::InvalidSpec, e.to_string()))?;
    Ok(spec)
}

/// Makes the directory of a unit that may be. Only for a caller that is there: what goes on without
/// one finds by the directory whether the unit was removed since.
pub(crate) fn begin(shared: &Shared, unit: &Unit) -> Result<(), Error> {
    cards(unit, spec(unit)?)?;
    let dir = shared.dir(unit.id);
    record::make_dir(&dir).map_err(|e| fail::file(Step::Prepare, "making", &dir, &e))
}

/// Makes everything that a unit needs to start, in its directory. The lock of the unit is not held
/// while images are fetched, so that it can be removed meanwhile.
pub(crate) async fn prepare(
    shared: &Shared,
    unit: &Unit,
    progress: &Progress,
) -> Result<(), Error> {
    let spec = spec(unit)?;
    let cards = cards(unit, spec)?;
    let dir = shared.dir(unit.id);
    {
        let _pin = shared.images.pin().await;
        let Some(_lock) = Lock::take(&dir, Step::Prepare, LOCK_PATIENCE).await? else {
            return Err(removed_meanwhile());
        };
        let known = record::read(&dir);
        if known.as_ref().is_some_and(|known| is_ready(known, unit)) {
            return Ok(());
        }
        record::write(&dir, &begun(shared, unit, spec, known)?)?;
    }
    let files = files(shared, spec, progress).await?;
    progress.send_replace("making disks".to_owned());
    let _lock = Lock::take(&dir, Step::Prepare, LOCK_PATIENCE).await?;
    let Some(mut record) = record::read(&dir) else {
        return Err(removed_meanwhile());
    };
    if is_ready(&record, unit) {
        return Ok(());
    }
    record.machine = Some(machine(shared, unit, spec, &files, cards, &dir).await?);
    record::write(&dir, &record)
}

fn removed_meanwhile() -> Error {
    let detail = "the unit was removed while it was prepared";
    Error::new(Step::Prepare, Reason::Cancelled, detail)
}

/// Whether the machine of this revision is there, with its files; one that runs is left alone.
fn is_ready(record: &Record, unit: &Unit) -> bool {
    let Some(machine) = &record.machine else {
        return false;
    };
    if record.run.as_ref().is_some_and(|run| run.ended.is_none()) {
        return true;
    }
    let kernel = machine.kernel.iter();
    let kernel = kernel.flat_map(|kernel| kernel.initrd.iter().chain([&kernel.image]));
    let bases = machine.disks.iter().filter_map(|disk| disk.base.as_ref());
    let disks = machine.disks.iter().map(|disk| &disk.path);
    let mut all = kernel.chain(bases.map(|(path, _)| path)).chain(disks);
    record.revision == unit.revision && all.all(|path| path.exists())
}

fn begun(
    shared: &Shared,
    unit: &Unit,
    spec: &VmSpec,
    known: Option<Record>,
) -> Result<Record, Error> {
    let boots_from = [&spec.image, &spec.kernel, &spec.initrd];
    let names = boots_from.into_iter().flatten().map(images::name);
    let images = names.collect::<Result<Vec<_>, _>>()?;
    let source = images.first().cloned().unwrap_or_default();
    let known = known.as_ref();
    Ok(Record {
        v: 1,
        unit: unit.id,
        node: shared.options.node.clone(),
        revision: unit.revision,
        workload: format!("{}/{}", unit.namespace, unit.name),
        images,
        source: source.replacen('-', ":", 1),
        cpu_millicores: unit.resources.cpu.0,
        boot_timeout_ms: u64::try_from(spec.boot_timeout.as_millis()).unwrap_or(u64::MAX),
        prints_address: prints_address(spec),
        has_agent: known.is_some_and(|known| known.has_agent),
        retained: disks::retained(&spec.disks),
        machine: None,
        groups: known.map(|known| known.groups.clone()).unwrap_or_default(),
        run: None,
    })
}

fn prints_address(spec: &VmSpec) -> bool {
    let seed = spec.cloud_init.as_ref();
    let seed = seed.map(|seed| [&seed.user_data, &seed.meta_data, &seed.vendor_data]);
    let texts = seed.into_iter().flatten().chain([&spec.cmdline]);
    texts.flatten().any(|text| text.contains(ADDRESS_WORD))
}

/// What the machine boots from, on this node.
struct Files {
    image: Option<(PathBuf, ImageFormat)>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
}

async fn files(shared: &Shared, spec: &VmSpec, progress: &Progress) -> Result<Files, Error> {
    let mut found = Vec::new();
    for image in [&spec.image, &spec.kernel, &spec.initrd] {
        found.push(match image {
            Some(image) => Some((shared.images.get(image, progress).await?, image.format)),
            None => None,
        });
    }
    let mut found = found.into_iter();
    let mut next = || found.next().flatten();
    let image = next();
    Ok(Files {
        image,
        kernel: next().map(|(path, _)| path),
        initrd: next().map(|(path, _)| path),
    })
}

async fn machine(
    shared: &Shared,
    unit: &Unit,
    spec: &VmSpec,
    files: &Files,
    cards: Vec<Card>,
    dir: &Path,
) -> Result<Machine, Error> {
    let mut all = Vec::new();
    if let Some((path, format)) = &files.image {
        let size = spec.root_size.map(|size| size.0);
        let pool = spec.root_pool.as_deref();
        let root = shared.disks.root(unit.id, pool, (path, *format), size);
        all.push(root.await?);
    }
    for disk in &spec.disks {
        all.push(shared.disks.further(unit.id, disk).await?);
    }
    all.push(seed_disk(unit, spec, &cards, dir)?);
    let memory = spec.memory.unwrap_or(unit.resources.memory).0;
    let from_cpu = u32::try_from(unit.resources.cpu.0.div_ceil(1_000)).unwrap_or(1);
    Ok(Machine {
        name: unit.id.to_string(),
        vcpus: spec.vcpus.unwrap_or(from_cpu).max(1),
        memory_bytes: memory.max(MIN_MEMORY_BYTES).next_multiple_of(1 << 20),
        kernel: files.kernel.clone().map(|image| Kernel {
            image,
            initrd: files.initrd.clone(),
            cmdline: spec
                .cmdline
                .clone()
                .unwrap_or_else(|| DEFAULT_CMDLINE.to_owned()),
        }),
        disks: all,
        cards,
    })
}

fn seed_disk(unit: &Unit, spec: &VmSpec, cards: &[Card], dir: &Path) -> Result<Disk, Error> {
    let no_dns = NetworkSpec::default();
    let given = spec.networks.iter().chain(std::iter::repeat(&no_dns));
    let networks = cards.iter().zip(given).map(|(card, spec)| seed::Network {
        card,
        gateway: spec.gateway,
        dns: &spec.dns,
    });
    let networks: Vec<_> = networks.collect();
    let seed = spec.cloud_init.as_ref();
    let volume = seed::volume(unit, seed, spec.login.as_ref(), &networks)?;
    let path = dir.join("seed.iso");
    record::write_file(&path, &volume)
        .map_err(|e| fail::file(Step::Prepare, "writing", &path, &e))?;
    Ok(Disk {
        serial: "cidata".to_owned(),
        path,
        format: ImageFormat::Raw,
        base: None,
        is_read_only: true,
    })
}

fn cards(unit: &Unit, spec: &VmSpec) -> Result<Vec<Card>, Error> {
    let default = [NetworkSpec::default()];
    let networks = match spec.networks.as_slice() {
        [] => &default[..],
        given => given,
    };
    let each = networks.iter().enumerate();
    each.map(|(index, network)| card(unit, network, index))
        .collect()
}

fn card(unit: &Unit, network: &NetworkSpec, index: usize) -> Result<Card, Error> {
    let address = network.address.as_deref().and_then(|text| {
        let (address, prefix) = text.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    });
    let field = |name: &str| format!("vm.networks[{index}].{name}");
    let link = match (network.mode, &network.bridge) {
        (VmNetworkMode::Bridge, Some(bridge)) => {
            if !net::is_bridge(bridge) {
                let message =
                    format!("this node has no bridge {bridge:?}; ask for `bridge:{bridge}`");
                return Err(fail::refused(&field("bridge"), message));
            }
            Link::Bridge {
                tap: net::tap(unit.id, index),
                bridge: bridge.clone(),
            }
        }
        _ => {
            if matches!(address, Some((IpAddr::V6(_), _))) {
                let message = "the user network has static addresses of version 4 only";
                return Err(fail::refused(&field("address"), message));
            }
            Link::User {
                ports: network.ports.iter().map(|port| port.target).collect(),
                gateway: network.gateway,
            }
        }
    };
    let mac = network.mac.as_deref().map(str::to_ascii_lowercase);
    Ok(Card {
        mac: mac.unwrap_or_else(|| net::mac(unit.id, index)),
        link,
        address,
    })
}
