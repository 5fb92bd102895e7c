//! What is wanted of one unit.

use std::sync::Arc;
use std::time::Duration;

use weft_core::service::record::{Assignment, Intent};
use weft_core::unit::{HealthTimes, Order, Settings};
use weft_proto::v1;
use weft_types::{NodeId, Reason, Resources, RuntimeKind, UnitId, Workload, WorkloadName};
use weft_unit::{Credentials, Secrets, Unit, UnitWork};

/// How long something that nobody wants may take to end after it was asked to.
const STRAY_GRACE: Duration = Duration::from_secs(10);

/// What is wanted of a unit; only its intent, its secrets, its right and whether it is listed ever change.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    /// `None` for something of ours that nobody wants.
    pub(super) assignment: Option<Arc<Assignment>>,
    pub(super) secrets: Option<Arc<Secrets>>,
    pub(super) has_secrets: bool,
    /// Whether its namespace may have what reaches the node.
    pub(super) may_be_privileged: bool,
    /// Whether the server lists it.
    pub(super) is_listed: bool,
    /// Another assignment of its exclusive workload took its place.
    pub(super) is_fenced: bool,
    pub(super) why: String,
    pub(super) kind: RuntimeKind,
}

impl Desired {
    /// Found on the node, wanted by nobody. Its volumes stay: they may be another unit's by now.
    pub(super) fn ghost(kind: RuntimeKind) -> Self {
        Self {
            kind,
            assignment: None,
            secrets: None,
            has_secrets: false,
            may_be_privileged: false,
            is_listed: false,
            is_fenced: false,
            why: "no server and no record of this node knows it".to_owned(),
        }
    }

    pub(super) fn new(assignment: Assignment, secrets: Option<Secrets>) -> Self {
        Self {
            kind: assignment.spec.runtime,
            has_secrets: secrets.is_some(),
            secrets: secrets.map(Arc::new),
            may_be_privileged: false,
            is_listed: true,
            is_fenced: false,
            why: assignment.why.clone(),
            assignment: Some(Arc::new(assignment)),
        }
    }

    /// Nobody wants it any more.
    pub(super) fn end(&mut self, why: &str) {
        self.is_listed = false;
        if self.why.is_empty() {
            why.clone_into(&mut self.why);
        }
    }

    pub(super) fn runs(&self) -> bool {
        let wants = |assignment: &Arc<Assignment>| assignment.intent == Intent::Run;
        self.is_listed && !self.is_fenced && self.assignment.as_ref().is_some_and(wants)
    }

    pub(super) fn order(&self) -> Order {
        let keep_volumes = self.assignment.as_ref().is_none_or(|it| it.keep_volumes);
        Order {
            run: self.runs(),
            why: self.why.clone(),
            keep_volumes,
        }
    }

    pub(super) fn kind(&self) -> RuntimeKind {
        self.kind
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.assignment.as_ref().is_some_and(|it| it.spec.exclusive)
    }

    /// How long it may take to end after it was asked to.
    pub(super) fn stop_grace(&self) -> Duration {
        let assignment = self.assignment.as_ref();
        assignment.map_or(STRAY_GRACE, |it| it.spec.stop_grace())
    }

    pub(super) fn demand(&self) -> Resources {
        match &self.assignment {
            Some(assignment) => assignment.spec.demand(),
            None => Resources {
                cpu: weft_types::Millicores(0),
                memory: weft_types::Bytes(0),
                disk: weft_types::Bytes(0),
                gpu: None,
            },
        }
    }

    pub(super) fn settings(&self, unit: UnitId, node: &NodeId) -> Settings {
        let spec = self.assignment.as_ref().map(|it| &it.spec);
        let container = spec.and_then(|spec| spec.container.as_deref());
        let health = container.and_then(|it| it.healthcheck.as_ref());
        let is_machine = spec.is_some_and(|spec| spec.runtime == RuntimeKind::Vm);
        Settings {
            unit,
            node: node.clone(),
            restart: container.and_then(|it| it.restart).unwrap_or_default(),
            health: health.map(HealthTimes::from),
            grace_ms: self.stop_grace().as_millis() as u64,
            exclusive: self.is_exclusive(),
            boots: is_machine,
            // The disks of a machine have sizes of their own, which it cannot exceed.
            max_disk_bytes: if is_machine { 0 } else { self.demand().disk.0 },
        }
    }

    /// The unit as runtimes take it.
    pub(super) fn unit(&self, id: UnitId) -> Result<Unit, (Reason, String)> {
        let invalid = |what: &str| (Reason::InvalidSpec, what.to_owned());
        let assignment = self.assignment.as_ref();
        let assignment = assignment.ok_or_else(|| invalid("it has no assignment"))?;
        let spec = &assignment.spec;
        Ok(Unit {
            id,
            namespace: spec.namespace.clone(),
            name: name(spec, id)?,
            revision: assignment.revision,
            work: work(spec).ok_or_else(|| {
                invalid(&format!(
                    "`runtime` is {0} and there is no `{0}`",
                    spec.runtime
                ))
            })?,
            resources: spec.demand(),
            secrets: self.secrets.as_deref().cloned().unwrap_or_default(),
            may_be_privileged: self.may_be_privileged,
        })
    }
}

fn name(spec: &Workload, id: UnitId) -> Result<WorkloadName, (Reason, String)> {
    match &spec.name {
        Some(name) => Ok(name.clone()),
        None => id
            .workload
            .to_string()
            .parse()
            .map_err(|error| (Reason::InvalidSpec, format!("name: {error}"))),
    }
}

fn work(spec: &Workload) -> Option<UnitWork> {
    match spec.runtime {
        RuntimeKind::Container => spec.container.clone().map(UnitWork::Container),
        RuntimeKind::Compose => spec.compose.clone().map(UnitWork::Compose),
        RuntimeKind::Vm => spec.vm.clone().map(UnitWork::Vm),
        RuntimeKind::Op | RuntimeKind::Wasm | RuntimeKind::Process => None,
    }
}

/// The secrets of a message; `None` when there are none.
pub(super) fn secrets(message: v1::UnitSecrets) -> Option<Secrets> {
    let text = |text: String| (!text.is_empty()).then_some(text);
    let credentials = |username: String, password: String| {
        (!username.is_empty() || !password.is_empty()).then_some(Credentials { username, password })
    };
    let secrets = Secrets {
        env: message.env.into_iter().collect(),
        registry: credentials(message.registry_username, message.registry_password),
        git: credentials(message.git_username, message.git_password),
        git_ssh_key: text(message.git_ssh_key),
        login_password: text(message.login_password),
    };
    (secrets != Secrets::default()).then_some(secrets)
}
