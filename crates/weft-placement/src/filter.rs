//! Which candidates may not be used, and why.

use std::fmt;

use serde::{Deserialize, Serialize};
use weft_types::{Bytes, Interruptible, Millicores, RuntimeKind};

use crate::free::Free;
use crate::{Availability, Candidate, ClosedReason, Request};

/// Why a candidate may not be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "filter", rename_all = "kebab-case")]
pub enum Refusal {
    /// It takes nothing new.
    Closed {
        /// Why.
        why: ClosedReason,
    },
    /// It cannot run this.
    Runtime {
        /// What it lacks.
        needed: RuntimeKind,
    },
    /// It lacks labels.
    Labels {
        /// Those it lacks, as `name=value`.
        missing: Vec<String>,
    },
    /// It lacks capabilities.
    Capabilities {
        /// Those it lacks.
        missing: Vec<String>,
    },
    /// It is somewhere else.
    Region {
        /// Where it is.
        region: String,
    },
    /// It is rented from somebody else.
    Provider {
        /// From whom.
        provider: String,
    },
    /// It may be taken away, or may not, and the other is wanted.
    Interruptible {
        /// Whether it may be taken away.
        interruptible: bool,
    },
    /// The wrong services have units there.
    Company {
        /// Those that are wanted and have none.
        lacking: Vec<String>,
        /// Those that are not wanted and have some.
        unwanted: Vec<String>,
    },
    /// Too few GPUs of an acceptable model.
    Gpu {
        /// How many are needed.
        needed: u32,
        /// How many are free.
        free: u32,
        /// How many it has.
        capacity: u32,
    },
    /// Too little CPU.
    Cpu {
        /// How much is needed.
        needed: Millicores,
        /// How much is free.
        free: Millicores,
        /// How much it has.
        capacity: Millicores,
    },
    /// Too little memory.
    Memory {
        /// How much is needed.
        needed: Bytes,
        /// How much is free.
        free: Bytes,
        /// How much it has.
        capacity: Bytes,
    },
    /// Too little disk.
    Disk {
        /// How much is needed.
        needed: Bytes,
        /// How much is free.
        free: Bytes,
        /// How much it has.
        capacity: Bytes,
    },
}

/// The kind of a refusal, to count by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// It takes nothing new.
    Closed,
    /// It cannot run this.
    Runtime,
    /// It lacks labels.
    Labels,
    /// It lacks capabilities.
    Capabilities,
    /// It is somewhere else.
    Region,
    /// It is rented from somebody else.
    Provider,
    /// It may be taken away, or may not.
    Interruptible,
    /// The wrong services have units there.
    Company,
    /// Too few GPUs.
    Gpu,
    /// Too little CPU.
    Cpu,
    /// Too little memory.
    Memory,
    /// Too little disk.
    Disk,
}

impl RefusalKind {
    /// In a few words, after a number of nodes.
    pub fn words(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Runtime => "without the runtime",
            Self::Labels => "without a label",
            Self::Capabilities => "without a capability",
            Self::Region => "in another region",
            Self::Provider => "from another provider",
            Self::Interruptible => "of the wrong interruptibility",
            Self::Company => "beside the wrong services",
            Self::Gpu => "with too few GPUs",
            Self::Cpu => "with too little CPU",
            Self::Memory => "with too little memory",
            Self::Disk => "with too little disk",
        }
    }

    /// Whether it is about an amount that work in progress will give back, or a larger machine has.
    pub fn is_amount(self) -> bool {
        matches!(self, Self::Gpu | Self::Cpu | Self::Memory | Self::Disk)
    }
}

impl Refusal {
    /// Its kind.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::Closed { .. } => RefusalKind::Closed,
            Self::Runtime { .. } => RefusalKind::Runtime,
            Self::Labels { .. } => RefusalKind::Labels,
            Self::Capabilities { .. } => RefusalKind::Capabilities,
            Self::Region { .. } => RefusalKind::Region,
            Self::Provider { .. } => RefusalKind::Provider,
            Self::Interruptible { .. } => RefusalKind::Interruptible,
            Self::Company { .. } => RefusalKind::Company,
            Self::Gpu { .. } => RefusalKind::Gpu,
            Self::Cpu { .. } => RefusalKind::Cpu,
            Self::Memory { .. } => RefusalKind::Memory,
            Self::Disk { .. } => RefusalKind::Disk,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { why } => write!(f, "it is {why}"),
            Self::Runtime { needed } => write!(f, "it cannot run {needed}"),
            Self::Labels { missing } => write!(f, "it has no label {}", missing.join(", ")),
            Self::Capabilities { missing } => write!(f, "it has no {}", missing.join(", ")),
            Self::Region { region } => write!(f, "it is in {region:?}"),
            Self::Provider { provider } => write!(f, "it is from {provider:?}"),
            Self::Interruptible {
                interruptible: true,
            } => f.write_str("it may be taken away"),
            Self::Interruptible {
                interruptible: false,
            } => f.write_str("it is not interruptible"),
            Self::Company { lacking, unwanted } => {
                let without = lacking
                    .iter()
                    .map(|name| format!("{name} has no unit there"));
                let beside = unwanted
                    .iter()
                    .map(|name| format!("{name} has a unit there"));
                let all: Vec<String> = without.chain(beside).collect();
                f.write_str(&all.join(", "))
            }
            Self::Gpu {
                needed,
                free,
                capacity,
            } => {
                write!(f, "{needed} GPUs needed, {free} of {capacity} free")
            }
            Self::Cpu {
                needed,
                free,
                capacity,
            } => write!(f, "CPU {needed} needed, {free} of {capacity} free"),
            Self::Memory {
                needed,
                free,
                capacity,
            } => {
                write!(
                    f,
                    "memory {} needed, {} of {} free",
                    short(*needed),
                    short(*free),
                    short(*capacity)
                )
            }
            Self::Disk {
                needed,
                free,
                capacity,
            } => {
                write!(
                    f,
                    "disk {} needed, {} of {} free",
                    short(*needed),
                    short(*free),
                    short(*capacity)
                )
            }
        }
    }
}

/// An amount in whole mebibytes, rounded down, or as it is when it is less.
pub(crate) fn short(bytes: Bytes) -> Bytes {
    if bytes.0 < 1 << 20 {
        bytes
    } else {
        Bytes(bytes.0 >> 20 << 20)
    }
}

/// What does not depend on the load: `None` when the candidate would do if it were empty and open.
pub(crate) fn unsuitable(request: &Request, candidate: &Candidate) -> Option<Refusal> {
    let capacity = &candidate.capacity;
    let wanted = &request.placement;
    if !capacity.runtimes.contains(&request.runtime) {
        return Some(Refusal::Runtime {
            needed: request.runtime,
        });
    }
    let lacks = |(name, value): &(&String, &String)| capacity.labels.get(*name) != Some(*value);
    let missing: Vec<String> = wanted
        .labels
        .iter()
        .filter(lacks)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !missing.is_empty() {
        return Some(Refusal::Labels { missing });
    }
    let lacks = |name: &&String| !capacity.capabilities.contains(*name);
    let missing: Vec<String> = wanted.capabilities.iter().filter(lacks).cloned().collect();
    if !missing.is_empty() {
        return Some(Refusal::Capabilities { missing });
    }
    if !wanted.regions.is_empty()
        && !wanted
            .regions
            .iter()
            .any(|region| **region == *candidate.region)
    {
        return Some(Refusal::Region {
            region: candidate.region.to_string(),
        });
    }
    if !wanted.providers.is_empty()
        && !wanted
            .providers
            .iter()
            .any(|provider| **provider == *candidate.provider)
    {
        return Some(Refusal::Provider {
            provider: candidate.provider.to_string(),
        });
    }
    let interruptible = candidate.interruptible;
    let refused = match wanted.interruptible {
        Interruptible::Allow => false,
        Interruptible::Forbid => interruptible,
        Interruptible::Require => !interruptible,
    };
    if refused {
        return Some(Refusal::Interruptible { interruptible });
    }
    let is_fine = candidate.lacking.is_empty() && candidate.unwanted.is_empty();
    (!is_fine).then(|| Refusal::Company {
        lacking: candidate.lacking.clone(),
        unwanted: candidate.unwanted.clone(),
    })
}

/// What depends on what is free.
pub(crate) fn too_small(request: &Request, candidate: &Candidate, free: &Free) -> Option<Refusal> {
    let need = &request.resources;
    let capacity = &candidate.capacity;
    if let Some(gpu) = need.gpu.as_ref().filter(|gpu| gpu.count > 0) {
        let alone = weft_types::Resources {
            gpu: Some(gpu.clone()),
            ..nothing()
        };
        if free.fits(&alone) == 0 {
            let has = Free::all_of(capacity).gpus_for(gpu);
            return Some(Refusal::Gpu {
                needed: gpu.count,
                free: free.gpus_for(gpu),
                capacity: has,
            });
        }
    }
    if need.cpu > free.cpu {
        return Some(Refusal::Cpu {
            needed: need.cpu,
            free: free.cpu,
            capacity: capacity.cpu,
        });
    }
    if need.memory > free.memory {
        return Some(Refusal::Memory {
            needed: need.memory,
            free: free.memory,
            capacity: capacity.memory,
        });
    }
    if need.disk > free.disk {
        return Some(Refusal::Disk {
            needed: need.disk,
            free: free.disk,
            capacity: capacity.disk,
        });
    }
    None
}

fn nothing() -> weft_types::Resources {
    weft_types::Resources {
        cpu: Millicores(0),
        memory: Bytes(0),
        disk: Bytes(0),
        gpu: None,
    }
}

/// Whether it takes new work.
pub(crate) fn closed(candidate: &Candidate) -> Option<Refusal> {
    match candidate.state {
        Availability::Open => None,
        Availability::Closed(why) => Some(Refusal::Closed { why }),
    }
}

/// The first filter that refuses a candidate.
pub(crate) fn refuse(request: &Request, candidate: &Candidate, free: &Free) -> Option<Refusal> {
    unsuitable(request, candidate)
        .or_else(|| closed(candidate))
        .or_else(|| too_small(request, candidate, free))
}
