//! Health checks: over HTTP, TCP, or by a command inside.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use weft_types::{HealthCheck, HealthProbe, HttpProbe};
use weft_unit::{ExecOutput, ExecWanted, publish_address};

use super::calls::Calls;

/// How much of a failed command's output is told, in bytes.
const MAX_OUTPUT_BYTES: usize = 512;

/// Checks once; what is wrong, for people.
pub(super) async fn check(calls: Calls) -> Result<(), String> {
    let spec = {
        let wanted = calls.wanted.borrow();
        let assignment = wanted.assignment.as_ref();
        let container = assignment.and_then(|it| it.spec.container.as_deref());
        container.and_then(|it| it.healthcheck.clone())
    };
    let Some(spec) = spec else {
        return Ok(());
    };
    let timeout = spec.timeout.max(Duration::from_millis(1));
    match tokio::time::timeout(timeout, probe(&calls, &spec)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    }
}

async fn probe(calls: &Calls, check: &HealthCheck) -> Result<(), String> {
    match check.probe() {
        Some(HealthProbe::Http(http)) => get(address(calls, http.port)?, http).await,
        Some(HealthProbe::Tcp(port)) => connect(address(calls, port)?).await.map(drop),
        Some(HealthProbe::Command(command)) => run(calls, command.to_vec()).await,
        None => Err("healthcheck: name one of `http`, `tcp` and `command`".to_owned()),
    }
}

fn address(calls: &Calls, port: u16) -> Result<SocketAddr, String> {
    let observed = calls.observed.lock();
    let address = observed.as_ref().and_then(|it| publish_address(it, port));
    address.ok_or_else(|| format!("port {port} has no address on this node"))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await;
    stream.map_err(|error| format!("{address}: {error}"))
}

async fn get(address: SocketAddr, probe: &HttpProbe) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("GET {}: {error}", probe.path);
    let stream = connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = Request::get(probe.path.as_str())
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, "weft")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request);
    tokio::pin!(response, connection);
    let response = tokio::select! {
        response = &mut response => response,
        // A server that closes after its answer ends both at once: the answer may be there.
        _ = &mut connection => response.await,
    };
    let response = response.map_err(|error| failed(&error))?;
    match response.status().as_u16() {
        200..=399 => Ok(()),
        status => Err(failed(&format!("status {status}"))),
    }
}

async fn run(calls: &Calls, command: Vec<String>) -> Result<(), String> {
    let runtime = calls.runtime("health").map_err(|failure| failure.detail)?;
    let wanted = ExecWanted {
        command,
        ..ExecWanted::default()
    };
    let session = runtime.exec(calls.unit, wanted).await;
    let mut session = session.map_err(|error| error.detail)?;
    let mut last = Vec::new();
    while let Some(output) = session.output.recv().await {
        let (ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)) = output;
        last.extend_from_slice(&bytes);
        let excess = last.len().saturating_sub(MAX_OUTPUT_BYTES);
        last.drain(..excess);
    }
    match session.exit.await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(code)) => {
            let output = String::from_utf8_lossy(&last);
            Err(format!("exit code {code}: {}", output.trim()))
        }
        Ok(Err(error)) => Err(error.detail),
        Err(_) => Err("the command ended without an exit code".to_owned()),
    }
}
