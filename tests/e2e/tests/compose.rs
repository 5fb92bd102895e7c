//! Compose applications through a whole cluster: web, worker and Redis from Debian packages, inline
//! and from a Git repository.

use serde_json::Value;
use weft_e2e::{PATIENCE, Site, TRUSTED, eventually, eventually_some};
use weft_unit::conformance::images::{ImageConfig, programs};

const REDIS: &str = "/usr/bin/redis-server";
const REDIS_CLI: &str = "/usr/bin/redis-cli";

/// Serves pages that put jobs into Redis and read results from there.
const WEB: &str = "#!/bin/sh
trap 'exit 0' TERM
echo \"serving $VERSION\"
httpd -f -p 80 -h /www &
wait
";
const ABOUT: &str = "#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo \"$VERSION for $WHO\"
";
const PUT: &str = "#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
redis-cli -h redis RPUSH jobs \"$QUERY_STRING\"
";
const GET: &str = "#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
redis-cli -h redis GET \"result:$QUERY_STRING\"
";
/// Does the jobs that are in Redis.
const WORKER: &str = "#!/bin/sh
trap 'exit 0' TERM
echo working
while :; do
  job=$(redis-cli -h redis BLPOP jobs 1 | tail -n 1)
  [ -n \"$job\" ] || { sleep 0.1; continue; }
  redis-cli -h redis SET \"result:$job\" \"$job is done\" >/dev/null
  echo \"did $job\"
done
";

/// Images of the application.
struct Images {
    app: String,
    redis: String,
}

impl Images {
    fn push(site: &Site) -> Self {
        let script = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec(), true);
        let mut files = programs(&[REDIS_CLI]).expect("redis-cli");
        files.extend([
            script("/web.sh", WEB),
            script("/worker.sh", WORKER),
            script("/www/cgi-bin/about", ABOUT),
            script("/www/cgi-bin/put", PUT),
            script("/www/cgi-bin/get", GET),
        ]);
        let app = ImageConfig {
            entrypoint: vec!["/web.sh".to_owned()],
            files,
        };
        let redis = ImageConfig {
            entrypoint: vec![REDIS.to_owned()],
            files: programs(&[REDIS, REDIS_CLI]).expect("redis-server"),
        };
        Self {
            app: site.push("app:1", &app).tagged,
            redis: site.push("redis:1", &redis).tagged,
        }
    }

    /// The Compose file of a version.
    fn file(&self, version: &str) -> String {
        let file = r#"version: "3.8"
services:
  web:
    image: APP
    environment: {VERSION: "VERSION", WHO: "${WHO:-nobody}", TOKEN: "${TOKEN:-}"}
    ports: ["8080:80"]
    depends_on: [redis]
  worker:
    image: APP
    entrypoint: ["/worker.sh"]
    depends_on: [redis]
  redis:
    image: REDIS
    command: ["--dir", "/data", "--save", "", "--appendonly", "yes", "--protected-mode", "no"]
    volumes: ["data:/data"]
volumes: {data: }
"#;
        file.replace("\"VERSION\"", &format!("{version:?}"))
            .replace("APP", &self.app)
            .replace("REDIS", &self.redis)
    }
}

/// A workload file with this beneath `compose`.
fn workload(compose: &str) -> String {
    let compose: String = compose.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: weft/v1\nname: app\nrun: service\nruntime: compose\n\
         resources: {{cpu: 500m, memory: 256Mi, disk: 0}}\ncompose:\n{compose}"
    )
}

fn inline(file: &str) -> String {
    let file: String = file.lines().map(|line| format!("  {line}\n")).collect();
    workload(&format!(
        "env: {{WHO: somebody}}\nenv_from: [{{secret: app}}]\ninline: |\n{file}"
    ))
}

fn about(site: &Site, expected: &str) {
    let mut last = String::new();
    eventually(&format!("the page says {expected:?}"), PATIENCE, || {
        let page = site.fetch(8080, "/cgi-bin/about");
        let fits = page == expected;
        last = page;
        fits
    });
}

/// Puts a job into Redis through the web, and waits until the worker has done it.
fn work_is_done(site: &Site, job: &str) {
    eventually("the web takes a job", PATIENCE, || {
        let queued = site.fetch(8080, &format!("/cgi-bin/put?{job}"));
        queued.parse::<u32>().is_ok()
    });
    eventually("the worker has done it", PATIENCE, || result(site, job));
}

fn result(site: &Site, job: &str) -> bool {
    site.fetch(8080, &format!("/cgi-bin/get?{job}")) == format!("{job} is done")
}

/// Waits until Redis has started again, with what it had.
fn is_kept(site: &Site, job: &str) {
    eventually("what Redis keeps is there", PATIENCE, || result(site, job));
}

/// The sources of units that are ready: `git:COMMIT`.
fn sources(service: &Value) -> Vec<String> {
    let units = service["units"].as_array().cloned().unwrap_or_default();
    let ready = units.iter().filter(|unit| unit["ready"] == true);
    ready
        .filter_map(|unit| unit["source"].as_str().map(str::to_owned))
        .collect()
}

fn runs_commit(site: &Site, commit: &str) {
    let expected = vec![format!("git:{commit}")];
    site.wait_for("default", "app", "runs the commit", |service| {
        sources(service) == expected
    });
    let shown = site.cluster.weft(["get", "app"]).run().expect_code(0);
    assert!(shown.stdout.contains(commit), "{}", shown.stdout);
}

#[test]
fn an_inline_application_lives_through_its_day() {
    let Some(mut site) = Site::up(true) else {
        return;
    };
    let images = Images::push(&site);
    site.set_secret("app", "TOKEN", "s3cret-token");
    site.apply(&inline(&images.file("one")), true)
        .expect_code(0);
    about(&site, "one for somebody");
    work_is_done(&site, "first");

    let service = site.service("default", "app");
    let parts = &service["units"][0]["parts"];
    for part in ["web", "worker", "redis"] {
        assert_eq!(parts[part], "running", "{service}");
    }
    let listed = site.cluster.weft(["ps"]).run().expect_code(0);
    let line = listed.stdout.lines().find(|line| line.contains("app"));
    let line = line.expect("it is listed");
    assert!(line.contains("compose") && line.contains("1/1"), "{line}");
    let shown = site.cluster.weft(["get", "app"]).run().expect_code(0);
    for part in ["web", "worker", "redis"] {
        let is_part = |line: &str| line.split_whitespace().eq([part, "running"]);
        assert!(
            shown.stdout.lines().any(is_part),
            "{part}: {}",
            shown.stdout
        );
    }

    eventually("the logs of all parts", PATIENCE, || {
        let logs = site.cluster.weft(["logs", "app"]).run().expect_code(0);
        let mut lines = ["/web] serving one", "/worker] did first", "/redis] "].iter();
        lines.all(|line| logs.stdout.contains(line))
    });
    let exec = |part: &str, script: &str| {
        let exec = ["exec", "app", "--part", part, "--", "sh", "-c", script];
        site.cluster.weft(exec).run()
    };
    let said = exec("web", "echo $TOKEN; exit 7");
    let said = (said.code, said.stdout.trim());
    assert_eq!(said, (7, "s3cret-token"));
    let said = exec("redis", "redis-cli GET result:first");
    assert!(said.stdout.contains("first is done"), "{said:?}");
    assert!(
        exec("nothing", "true").stderr.contains("web"),
        "names what there is"
    );

    site.cluster
        .weft(["restart", "app", "--wait"])
        .timeout(PATIENCE)
        .run()
        .expect_code(0);
    about(&site, "one for somebody");
    is_kept(&site, "first");

    site.apply(&inline(&images.file("two")), true)
        .expect_code(0);
    about(&site, "two for somebody");
    is_kept(&site, "first");
    work_is_done(&site, "second");
    let again = site
        .apply(&inline(&images.file("two")), false)
        .expect_code(0);
    assert!(again.stdout.contains("unchanged"), "{}", again.stdout);

    // A part that dies is started again, also without its agent.
    let docker = site.docker.as_ref().expect("an engine");
    let before = docker.run(&["ps", "-q"]).expect("containers");
    site.kill_agent();
    let docker = site.docker.as_ref().expect("an engine");
    assert_eq!(docker.run(&["ps", "-q"]).expect("containers"), before);
    site.wait_for("default", "app", "is adopted", |service| {
        service["replicas"]["ready"] == 1
    });
    let ids = docker.run(&[
        "ps",
        "-q",
        "--filter",
        "label=com.docker.compose.service=web",
    ]);
    docker
        .run(&["kill", &ids.expect("the web")])
        .expect("it is killed");
    work_is_done(&site, "third");

    site.delete("default", "app");
    site.wait_until_nothing_is_left();
    assert_eq!(site.fetch(8080, "/"), "");
}

/// The HMAC-SHA256 of a body, as Git servers send it.
fn signature(secret: &str, body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, body.as_bytes());
    tag.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn an_application_from_git_follows_its_pushes() {
    let Some(site) = Site::up(true) else {
        return;
    };
    let images = Images::push(&site);
    let publish = |version: &str| {
        let file = images.file(version);
        site.git.write("deploy/app.yaml", &file).expect("a file");
        site.git.commit().expect("a commit")
    };
    site.set_secret("app", "TOKEN", "s3cret-token");
    site.set_secret("hook", "webhook_secret", "hook-secret");
    let url = &site.git.url;
    let from = |reference: &str| {
        workload(&format!(
            "env: {{WHO: git}}\nenv_from: [{{secret: app}}]\n\
             git: {{url: '{url}', ref: '{reference}', path: deploy/app.yaml, webhook: hook}}"
        ))
    };
    let first = publish("one");
    site.apply(&from("main"), true).expect_code(0);
    about(&site, "one for git");
    runs_commit(&site, &first);
    work_is_done(&site, "first");

    // What was pushed since is taken with a restart, a push that says so, or another reference.
    let second = publish("two");
    let restart = site.cluster.weft(["restart", "app", "--wait"]);
    restart.timeout(PATIENCE).run().expect_code(0);
    about(&site, "two for git");
    runs_commit(&site, &second);
    is_kept(&site, "first");

    let third = publish("three");
    let body = r#"{"ref":"refs/heads/main","repository":{"default_branch":"main"}}"#;
    let signed = |secret: &str| {
        let signature = signature(secret, body);
        [
            format!("X-Hub-Signature-256: sha256={signature}"),
            "X-GitHub-Event: push".to_owned(),
        ]
    };
    let hook = "default/app";
    assert_eq!(site.hook(hook, body, &signed("guessed")), "403");
    assert_eq!(site.hook(hook, body, &[]), "403");
    assert_eq!(
        site.hook("default/other", body, &signed("hook-secret")),
        "403"
    );
    let other = body.replace("heads/main", "heads/other");
    let elsewhere = [format!(
        "X-Hub-Signature-256: sha256={}",
        signature("hook-secret", &other)
    )];
    assert_eq!(site.hook(hook, &other, &elsewhere), "202");
    assert_eq!(
        sources(&site.service("default", "app")),
        [format!("git:{second}")]
    );
    assert_eq!(site.hook(hook, body, &signed("hook-secret")), "202");
    runs_commit(&site, &third);
    about(&site, "three for git");

    let fourth = publish("four");
    let token = |token: &str| {
        [
            format!("X-Gitlab-Token: {token}"),
            "X-Gitlab-Event: Push Hook".to_owned(),
        ]
    };
    assert_eq!(site.hook(hook, body, &token("guessed")), "403");
    assert_eq!(site.hook(hook, body, &token("hook-secret")), "202");
    runs_commit(&site, &fourth);

    // A commit can be named, and stays whatever is pushed.
    site.apply(&from(&first), true).expect_code(0);
    runs_commit(&site, &first);
    about(&site, "one for git");
    is_kept(&site, "first");

    site.delete("default", "app");
    site.wait_until_nothing_is_left();
}

/// A Compose file with this in its only service.
fn with(image: &str, line: &str) -> String {
    format!(
        "version: '3.8'\nservices:\n  web:\n    image: {image}\n    entrypoint: [/web.sh]\n    {line}\n"
    )
}

#[test]
fn what_reaches_the_node_is_for_namespaces_that_may() {
    let Some(site) = Site::up(true) else {
        return;
    };
    let images = Images::push(&site);
    site.set_secret("app", "TOKEN", "unused");
    let lines = [
        ("privileged: true", "services.web.privileged"),
        ("network_mode: host", "services.web.network_mode"),
        ("pid: host", "services.web.pid"),
        ("cap_add: [NET_ADMIN]", "services.web.cap_add"),
        ("devices: ['/dev/fuse:/dev/fuse']", "services.web.devices"),
        (
            "security_opt: ['seccomp:unconfined']",
            "services.web.security_opt",
        ),
        (
            "volumes: ['/run/docker.sock:/run/docker.sock']",
            "services.web.volumes[0]",
        ),
        ("volumes: ['/etc:/host:ro']", "services.web.volumes[0]"),
    ];
    for (line, field) in lines {
        let refused = site.apply(&inline(&with(&images.app, line)), false);
        assert_eq!(refused.code, 77, "{line}: {}", refused.stderr);
        let field = format!("compose.inline.{field}");
        assert!(
            refused.stderr.contains(&field),
            "{line}: {}",
            refused.stderr
        );
    }
    let in_trusted =
        |text: &str| text.replacen("name: app", &format!("name: app\nnamespace: {TRUSTED}"), 1);
    let everything = "cap_add: [NET_ADMIN]\n    pid: host\n    volumes: ['/etc:/host:ro']";
    let file = with(&images.app, everything);
    let allowed = inline(&file).replace("  env_from: [{secret: app}]\n", "");
    site.apply(&in_trusted(&allowed), true).expect_code(0);
    let exec = ["-n", TRUSTED, "exec", "app", "--", "sh", "-c"];
    let script = "test -f /host/debian_version && grep -qs dockerd /proc/[0-9]*/comm";
    let exec = site.cluster.weft(exec.into_iter().chain([script]));
    exec.run().expect_code(0);
    site.delete(TRUSTED, "app");

    // In a repository only the node sees it.
    site.git.write("compose.yaml", &file).expect("a file");
    site.git.commit().expect("a commit");
    let from_git = workload(&format!("git: {{url: '{}'}}", site.git.url));
    site.apply(&from_git, false).expect_code(0);
    let refused = site.wait_for("default", "app", "is refused", |service| {
        service["reason"] == "permission-denied"
    });
    let detail = refused["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("services.web.cap_add"), "{refused}");
    assert!(detail.contains("allow_privileged"), "{refused}");
    site.delete("default", "app");
    site.apply(&in_trusted(&from_git), true).expect_code(0);
    let running = eventually_some("it runs", PATIENCE, || {
        let docker = site.docker.as_ref()?;
        let format = "{{.HostConfig.PidMode}} {{.HostConfig.CapAdd}}";
        let ids = docker.run(&["ps", "-q"]).ok()?;
        docker
            .run(&["inspect", "-f", format, ids.lines().next()?])
            .ok()
    });
    assert!(
        running.contains("host") && running.contains("NET_ADMIN"),
        "{running}"
    );
    site.delete(TRUSTED, "app");
    site.wait_until_nothing_is_left();
}
