//! The OpenAPI 3.1 description, made from the shapes and the table of operations below.

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

/// All shapes of requests and responses.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Weft",
        description = "One computer out of many: describe work once, it runs in the cheapest place that satisfies it."
    ),
    components(schemas(
        weft_api::Applied,
        weft_api::Changed,
        weft_api::DeadLetterView,
        weft_api::EventView,
        weft_api::ExplainView,
        weft_api::Health,
        weft_api::JobView,
        weft_api::LogLine,
        weft_api::NodePatch,
        weft_api::PlanView,
        weft_api::SecretRequest,
        weft_api::SecretView,
        weft_api::UnitLogView,
        weft_api::WorkloadPatch,
        weft_api::WorkloadView,
        weft_api::NodeView,
        weft_api::Problem,
        weft_api::RequeueRequest,
        weft_api::ResultView,
        weft_api::TaskHistoryView,
        weft_api::TaskView,
        weft_api::TokenCreated,
        weft_api::TokenRequest,
        weft_api::TokenView,
        weft_api::UploadedView,
        weft_api::VersionView,
        weft_api::WsMessage,
        weft_api::WsRequestFields,
        weft_types::Workload
    ))
)]
struct Shapes;

/// One operation: method, path, what it does, its query parameters, its body, its answer.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    body: Option<&'static str>,
    status: &'static str,
    answer: Answer,
    is_open: bool,
}

/// The shape of an answer.
enum Answer {
    Nothing,
    One(&'static str),
    Page(&'static str),
    Lines(&'static str),
    Other(&'static str),
}

const fn operation(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answer: Answer,
) -> Operation {
    Operation {
        method,
        path,
        summary,
        query: &[],
        body: None,
        status: "200",
        answer,
        is_open: false,
    }
}

impl Operation {
    const fn open(self) -> Self {
        Self {
            is_open: true,
            ..self
        }
    }

    const fn query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }

    const fn body(self, body: &'static str) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    const fn status(self, status: &'static str) -> Self {
        Self { status, ..self }
    }
}

use Answer::{Lines, Nothing, One, Other, Page};

/// Every path that the router has.
const OPERATIONS: &[Operation] = &[
    operation("get", "/health", "Whether the server lives", One("Health")).open(),
    operation("get", "/healthz", "Whether the server lives", One("Health")).open(),
    operation("get", "/readyz", "Whether the server is ready", One("Health")).open(),
    operation("get", "/metrics", "Figures in OpenMetrics", Other("application/openmetrics-text")).open(),
    operation("get", "/openapi.json", "This description", Other("application/json")).open(),
    operation("get", "/v1/jobs", "Jobs, newest first", Page("JobView")).query(&["limit", "cursor"]),
    operation("post", "/v1/jobs", "Submit a job; as application/x-ndjson the job on the first line and a task on each further one; answers when it is on disk", One("JobView"))
        .query(&["wait"]).body("Workload").status("201"),
    operation("get", "/v1/jobs/{id}", "A job; with wait, once it is final or the wait is over", One("JobView")).query(&["wait"]),
    operation("delete", "/v1/jobs/{id}", "Cancel a job that runs, forget one that has ended", Nothing).status("204"),
    operation("get", "/v1/jobs/{id}/tasks", "Tasks of a job", Page("TaskView")).query(&["limit", "cursor", "state"]),
    operation("get", "/v1/jobs/{id}/tasks/{task}", "A task with the history of its attempts", One("TaskHistoryView")),
    operation("get", "/v1/jobs/{id}/results", "Results, one line a task, as they end (order=finish) or by number (order=task), of the tasks from this number on", Lines("ResultView")).query(&["wait", "order", "from"]),
    operation("post", "/v1/jobs/{id}/cancel", "Cancel a job; one that has ended stays as it is, so that it may be sent twice", One("JobView")),
    operation("post", "/v1/jobs/{id}/retry", "Queue failed and dead tasks again", One("JobView")),
    operation("get", "/v1/jobs/{id}/explain", "Why a job is where it is, or nowhere", One("ExplainView")),
    operation("get", "/v1/results/{id}", "Results that are there", Page("ResultView")).query(&["limit", "cursor"]),
    operation("get", "/v1/logs/jobs/{id}", "What tasks print; with follow until they end", Lines("LogLine")).query(&["task", "follow"]),
    operation("get", "/v1/workloads", "Services, by namespace and name", Page("WorkloadView")).query(&["limit", "cursor", "namespace", "state"]),
    operation("post", "/v1/workloads", "Apply a service; 201 when it is new, 200 when it was there; with dry_run=true the answer is a PlanView and nothing changes; If-Match takes the revision it must have", One("Applied"))
        .query(&["dry_run"]).body("Workload").status("201"),
    operation("get", "/v1/workloads/{id}", "A service by id, unique prefix or name, with its specification and its units; with wait, once it is running, healthy or gone (for) or the wait is over", One("WorkloadView"))
        .query(&["namespace", "wait", "for"]),
    operation("patch", "/v1/workloads/{id}", "Scale, stop, start or restart a service", One("WorkloadView")).query(&["namespace"]).body("WorkloadPatch"),
    operation("delete", "/v1/workloads/{id}", "Delete a service with everything of it: 202 while something of it is left, 200 when nothing is left within wait", One("WorkloadView"))
        .query(&["namespace", "wait"]).status("202"),
    operation("get", "/v1/workloads/{id}/explain", "Why its units are where they are, or why nothing can run", One("ExplainView")).query(&["namespace"]),
    operation("post", "/v1/workloads/{id}/pause", "Let a service's units stand still, or the one of unit; their memory stays, their ports do not answer", One("WorkloadView")).query(&["namespace", "unit"]),
    operation("post", "/v1/workloads/{id}/resume", "Let units that stand still go on", One("WorkloadView")).query(&["namespace", "unit"]),
    operation("get", "/v1/workloads/{id}/exec", "Run a command inside a unit over a WebSocket: the first byte of each binary message names a channel, 0 to the command, 1 and 2 from it, 3 its end, 4 the terminal's size", Nothing)
        .query(&["namespace", "unit", "part", "command", "tty", "columns", "rows"]).status("101"),
    operation("get", "/v1/workloads/{id}/port-forward", "A connection to a port inside a unit over a WebSocket: binary messages are its bytes, empty ones end a direction", Nothing)
        .query(&["namespace", "unit", "port"]).status("101"),
    operation("get", "/v1/logs/workloads/{id}", "What units print, merged by time; with follow also those to come", Lines("UnitLogView"))
        .query(&["namespace", "unit", "follow", "tail", "since", "previous"]),
    operation("get", "/v1/secrets", "Secrets, without their values", Page("SecretView")).query(&["limit", "cursor", "namespace"]),
    operation("get", "/v1/secrets/{name}", "A secret, without its values", One("SecretView")).query(&["namespace"]),
    operation("put", "/v1/secrets/{name}", "Set all values of a secret; units that are made later get them", One("SecretView")).query(&["namespace"]).body("SecretRequest"),
    operation("delete", "/v1/secrets/{name}", "Forget a secret that no service uses", Nothing).query(&["namespace"]).status("204"),
    operation("post", "/v1/hooks/{namespace}/{name}", "A push to the repository of a Compose application, signed by its HMAC-SHA256 as x-hub-signature-256, or with GitLab's x-gitlab-token: its units are made anew", Other("application/json")).status("202").open(),
    operation("get", "/v1/dlq", "Dead letters, newest job first, each with its attempts; a page may be short and not the last", Page("DeadLetterView"))
        .query(&["limit", "cursor", "job", "reason", "namespace"]),
    operation("post", "/v1/dlq/requeue", "Give dead letters all their attempts again; answers when that is on disk", One("Changed")).body("RequeueRequest"),
    operation("get", "/v1/dlq/{job}/{task}", "A dead letter, with the end of what its attempts printed", One("DeadLetterView")),
    operation("delete", "/v1/dlq/{job}", "Take all dead letters of a job off the list; their results stay", One("Changed")).query(&["reason"]),
    operation("delete", "/v1/dlq/{job}/{task}", "Take a dead letter off the list; its result stays", One("Changed")),
    operation("get", "/v1/nodes", "Nodes", Page("NodeView")).query(&["limit", "cursor"]),
    operation("get", "/v1/nodes/{id}", "A node", One("NodeView")),
    operation("patch", "/v1/nodes/{id}", "Cordon, drain, reopen or approve a node", One("NodeView")).body("NodePatch"),
    operation("delete", "/v1/nodes/{id}", "Remove a node for good", Nothing).status("204"),
    operation("get", "/v1/tokens", "Join tokens that are good", Page("TokenView")),
    operation("post", "/v1/tokens", "Make a join token", One("TokenCreated")).body("TokenRequest").status("201"),
    operation("delete", "/v1/tokens/{id}", "Make a join token worthless", Nothing).status("204"),
    operation("post", "/v1/scheduler/schedule", "Where a task of this workload would go now", One("ExplainView")).body("Workload"),
    operation("get", "/v1/scheduler/status", "What the dispatcher holds", Other("application/json")),
    operation("get", "/v1/events", "Events: a stream of server-sent events, or a page of JSON", Page("EventView")).query(&["since", "follow", "type", "subject"]),
    operation("get", "/v1/version", "Versions of the server and its nodes", One("VersionView")),
    operation("get", "/v1/ws", "A WebSocket (docs/websocket.md): each text message to the server is a WsRequestFields, each one from it a WsMessage", One("WsMessage"))
        .status("101"),
    operation("get", "/v1/blobs/{hash}", "An artifact's bytes", Other("application/octet-stream")),
    operation("head", "/v1/blobs/{hash}", "Whether an artifact is there", Nothing),
    operation("put", "/v1/blobs/{hash}", "Keep an artifact", One("UploadedView")).status("201"),
];

/// The whole description.
fn document() -> Value {
    let mut document = serde_json::to_value(Shapes::openapi()).unwrap_or_default();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["info"]["license"] = json!({ "name": "Apache-2.0 OR MIT" });
    document["components"]["securitySchemes"] = json!({
        "certificate": { "type": "mutualTLS" },
        "token": { "type": "http", "scheme": "bearer" },
    });
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    document["paths"] = paths.into();
    document
}

fn describe(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation
        .path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    let query = operation.query.iter();
    parameters.extend(
        query.map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } })),
    );
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let content = match &operation.answer {
        Nothing => None,
        One(name) => Some(json!({ "application/json": { "schema": reference(name) } })),
        Page(name) => Some(json!({ "application/json": { "schema": {
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": { "type": "array", "items": reference(name) },
                "next": { "type": ["string", "null"] },
            },
        }}})),
        Lines(name) => Some(json!({ "application/x-ndjson": { "schema": reference(name) } })),
        Other(content_type) => Some(json!({ *content_type: {} })),
    };
    let mut success = json!({ "description": operation.summary });
    if let Some(content) = content {
        success["content"] = content;
    }
    let problem = json!({
        "description": "A problem document (RFC 9457)",
        "content": { "application/problem+json": { "schema": reference("Problem") } },
    });
    let mut described = json!({
        "summary": operation.summary,
        "parameters": parameters,
        "responses": { operation.status: success, "default": problem },
    });
    if let Some(body) = operation.body {
        described["requestBody"] =
            json!({ "content": { "application/json": { "schema": reference(body) } } });
    }
    if !operation.is_open {
        described["security"] = json!([{ "certificate": [] }, { "token": [] }]);
    }
    described
}

/// The OpenAPI 3.1 description as text.
pub fn openapi_json() -> String {
    serde_json::to_string_pretty(&document()).unwrap_or_default()
}

/// `GET /openapi.json`.
pub async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi_json())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_every_shape_is_there() {
        let document = document();
        assert!(
            document["openapi"]
                .as_str()
                .is_some_and(|version| version.starts_with("3.1"))
        );
        let router = include_str!("mod.rs");
        let routes = router
            .split(".route(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        for route in routes {
            assert!(
                document["paths"][route].is_object(),
                "{route} is not described"
            );
        }
        let text = document.to_string();
        for reference in text
            .split("#/components/schemas/")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
        {
            assert!(
                document["components"]["schemas"][reference].is_object(),
                "{reference} is missing"
            );
        }
    }
}
