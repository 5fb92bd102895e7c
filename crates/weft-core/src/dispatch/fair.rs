//! Whose turn it is: weighted fair share between namespaces, priority and age within one.
//!
//! Stride scheduling (Waldspurger and Weihl, 1995): each namespace has a *pass* that advances by
//! what it was given over its weight; whoever is furthest behind is next. A namespace that comes
//! back after idling starts at the current pass, so that it cannot claim the past.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use weft_placement::ClassId;
use weft_types::Namespace;

/// Keeps fractions of a weight in integers.
const PASS_SCALE: u64 = 1 << 10;

/// Jobs of one priority that ask for the same class, oldest first: id and slot.
type Lane = BTreeSet<(u64, u32)>;

#[derive(Debug)]
struct Tenant {
    namespace: Namespace,
    weight: u32,
    pass: u64,
    lanes: BTreeMap<(Reverse<i32>, ClassId), Lane>,
}

/// The jobs with work to hand out, by whose turn it is.
#[derive(Default)]
pub(super) struct FairShare {
    tenants: Vec<Tenant>,
    by_name: BTreeMap<Namespace, u32>,
    /// Tenants with a lane, by pass.
    active: BTreeSet<(u64, u32)>,
    /// The pass of whoever was served last.
    current: u64,
}

/// Where a job queues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) tenant: u32,
    pub(super) priority: i32,
    pub(super) class: ClassId,
    pub(super) job: u64,
    pub(super) slot: u32,
}

impl FairShare {
    pub(super) fn tenant(&mut self, namespace: &Namespace) -> u32 {
        if let Some(&tenant) = self.by_name.get(namespace) {
            return tenant;
        }
        let tenant = self.tenants.len() as u32;
        self.tenants.push(Tenant {
            namespace: namespace.clone(),
            weight: 1,
            pass: 0,
            lanes: BTreeMap::new(),
        });
        self.by_name.insert(namespace.clone(), tenant);
        tenant
    }

    pub(super) fn namespace(&self, tenant: u32) -> Option<&Namespace> {
        Some(&self.tenants.get(tenant as usize)?.namespace)
    }

    pub(super) fn set_weight(&mut self, namespace: &Namespace, weight: u32) {
        let tenant = self.tenant(namespace);
        self.tenants[tenant as usize].weight = weight.max(1);
    }

    pub(super) fn enter(&mut self, place: Place) {
        let current = self.current;
        let tenant = &mut self.tenants[place.tenant as usize];
        if tenant.lanes.is_empty() {
            tenant.pass = tenant.pass.max(current);
            self.active.insert((tenant.pass, place.tenant));
        }
        let lane = (Reverse(place.priority), place.class);
        tenant
            .lanes
            .entry(lane)
            .or_default()
            .insert((place.job, place.slot));
    }

    pub(super) fn leave(&mut self, place: Place) {
        let tenant = &mut self.tenants[place.tenant as usize];
        let key = (Reverse(place.priority), place.class);
        if let Some(lane) = tenant.lanes.get_mut(&key) {
            lane.remove(&(place.job, place.slot));
            if lane.is_empty() {
                tenant.lanes.remove(&key);
            }
        }
        if tenant.lanes.is_empty() {
            self.active.remove(&(tenant.pass, place.tenant));
        }
    }

    /// The slot of the job whose turn it is, among those whose class is not blocked.
    pub(super) fn next(&self, is_blocked: impl Fn(ClassId) -> bool) -> Option<u32> {
        self.active
            .iter()
            .find_map(|&(_, tenant)| self.tenants[tenant as usize].next(&is_blocked))
    }

    /// A tenant was given work of this cost.
    pub(super) fn charge(&mut self, tenant: u32, cost: u64) {
        let entry = &mut self.tenants[tenant as usize];
        let was_active = self.active.remove(&(entry.pass, tenant));
        self.current = self.current.max(entry.pass);
        entry.pass += cost.saturating_mul(PASS_SCALE) / u64::from(entry.weight);
        if was_active {
            self.active.insert((entry.pass, tenant));
        }
    }
}

impl Tenant {
    /// The oldest job of the highest priority that has a class that is not blocked.
    fn next(&self, is_blocked: &impl Fn(ClassId) -> bool) -> Option<u32> {
        let mut best: Option<(Reverse<i32>, u64, u32)> = None;
        for ((priority, class), lane) in &self.lanes {
            if best.is_some_and(|(found, ..)| found < *priority) {
                break;
            }
            if is_blocked(*class) {
                continue;
            }
            if let Some(&(job, slot)) = lane.first()
                && best.is_none_or(|(_, oldest, _)| job < oldest)
            {
                best = Some((*priority, job, slot));
            }
        }
        best.map(|(.., slot)| slot)
    }
}
