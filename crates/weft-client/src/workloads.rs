//! Services, their units' output, and secrets.

use std::time::Duration;

use reqwest::Method;
use weft_api::{
    Applied, ExplainView, PlanView, SecretRequest, SecretView, UnitLogView, WorkloadPatch,
    WorkloadView,
};
use weft_types::{Namespace, Workload};

use crate::client::CALL_TIMEOUT;
use crate::lines::Framing;
use crate::{Client, Error, Lines};

/// The most services that a list call gathers.
const MAX_LISTED: usize = 100_000;

/// Which lines of a service's output.
#[derive(Clone, Debug, Default)]
pub struct UnitLogs {
    /// Goes on with new lines, also of units to come.
    pub follow: bool,
    /// Only of this unit.
    pub unit: Option<u32>,
    /// Only the last so many of each unit.
    pub tail: Option<usize>,
    /// Only those of the last so long.
    pub since: Option<Duration>,
    /// Of the instance before the last restart.
    pub previous: bool,
}

impl Client {
    /// Makes a service what it should be; with a revision only when it still has that.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn apply(
        &self,
        workload: &Workload,
        revision: Option<u64>,
    ) -> Result<Applied, Error> {
        let mut request = self
            .request(Method::POST, "/v1/workloads")
            .timeout(CALL_TIMEOUT)
            .json(workload);
        if let Some(revision) = revision {
            request = request.header("if-match", format!("\"{revision}\""));
        }
        self.json(request).await
    }

    /// What an apply would do.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn plan(&self, workload: &Workload) -> Result<PlanView, Error> {
        self.post("/v1/workloads?dry_run=true", workload).await
    }

    /// All services, of one namespace if given.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn workloads(
        &self,
        namespace: Option<&Namespace>,
    ) -> Result<Vec<WorkloadView>, Error> {
        let filter = namespace
            .map(|namespace| format!("?namespace={namespace}"))
            .unwrap_or_default();
        self.pages(&format!("/v1/workloads{filter}"), MAX_LISTED)
            .await
    }

    /// One service with its specification and its units, by id, unique prefix of one, or name.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn workload(
        &self,
        id: &str,
        namespace: Option<&Namespace>,
    ) -> Result<WorkloadView, Error> {
        let request = self.request(Method::GET, &path(id, ""));
        self.json(scoped(request, namespace).timeout(CALL_TIMEOUT))
            .await
    }

    /// Scales, stops, starts or restarts a service.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn patch_workload(
        &self,
        id: &str,
        patch: &WorkloadPatch,
    ) -> Result<WorkloadView, Error> {
        let request = self
            .request(Method::PATCH, &path(id, ""))
            .timeout(CALL_TIMEOUT)
            .json(patch);
        self.json(request).await
    }

    /// Lets units of a service stand still, or go on: one, or all of them.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn set_workload_paused(
        &self,
        id: &str,
        unit: Option<u32>,
        is_paused: bool,
    ) -> Result<WorkloadView, Error> {
        let verb = if is_paused { "/pause" } else { "/resume" };
        let mut request = self
            .request(Method::POST, &path(id, verb))
            .timeout(CALL_TIMEOUT);
        if let Some(unit) = unit {
            request = request.query(&[("unit", unit)]);
        }
        self.json(request).await
    }

    /// Deletes a service; what is left of it goes afterwards.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn delete_workload(&self, id: &str) -> Result<(), Error> {
        self.delete(&path(id, "")).await
    }

    /// Why a service's units are where they are, or nowhere.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn explain_workload(&self, id: &str) -> Result<ExplainView, Error> {
        self.get(&path(id, "/explain")).await
    }

    /// What the units of a service print.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn unit_logs(
        &self,
        id: &str,
        wanted: &UnitLogs,
    ) -> Result<Lines<UnitLogView>, Error> {
        let mut request = self
            .request(Method::GET, &format!("/v1/logs/workloads/{}", escaped(id)))
            .query(&[("follow", wanted.follow), ("previous", wanted.previous)]);
        if let Some(unit) = wanted.unit {
            request = request.query(&[("unit", unit)]);
        }
        if let Some(tail) = wanted.tail {
            request = request.query(&[("tail", tail)]);
        }
        if let Some(since) = wanted.since {
            request = request.query(&[("since", format!("{}s", since.as_secs()))]);
        }
        Ok(Lines::new(self.send(request).await?, Framing::Ndjson))
    }

    /// Sets a secret.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn set_secret(
        &self,
        name: &str,
        namespace: &Namespace,
        secret: &SecretRequest,
    ) -> Result<SecretView, Error> {
        let request = self
            .request(Method::PUT, &secret_path(name, namespace))
            .timeout(CALL_TIMEOUT)
            .json(secret);
        self.json(request).await
    }

    /// A secret's keys; its values are never told.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn secret(&self, name: &str, namespace: &Namespace) -> Result<SecretView, Error> {
        self.get(&secret_path(name, namespace)).await
    }

    /// All secrets, of one namespace if given.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn secrets(&self, namespace: Option<&Namespace>) -> Result<Vec<SecretView>, Error> {
        let filter = namespace
            .map(|namespace| format!("?namespace={namespace}"))
            .unwrap_or_default();
        self.pages(&format!("/v1/secrets{filter}"), MAX_LISTED)
            .await
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn remove_secret(&self, name: &str, namespace: &Namespace) -> Result<(), Error> {
        self.delete(&secret_path(name, namespace)).await
    }
}

fn scoped(
    request: reqwest::RequestBuilder,
    namespace: Option<&Namespace>,
) -> reqwest::RequestBuilder {
    match namespace {
        Some(namespace) => request.query(&[("namespace", namespace.as_str())]),
        None => request,
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/v1/workloads/{}{rest}", escaped(id))
}

fn secret_path(name: &str, namespace: &Namespace) -> String {
    format!("/v1/secrets/{}?namespace={namespace}", escaped(name))
}

/// A segment of a path; whatever somebody types stays one segment.
pub(crate) fn escaped(segment: &str) -> String {
    let mut text = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_typed_stays_one_segment() {
        assert_eq!(escaped("web-1.a_b"), "web-1.a_b");
        assert_eq!(escaped("../jobs?x=1"), "..%2Fjobs%3Fx%3D1");
        assert_eq!(escaped("ä"), "%C3%A4");
    }
}
