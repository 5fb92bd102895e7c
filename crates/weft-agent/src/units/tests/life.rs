//! Units that run, fail and go.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_runs_is_reported_and_leaves_nothing_when_it_is_to_end() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    let status = talk.ready(unit(1)).await;
    assert_eq!(status.state, WorkloadState::Running);
    assert_eq!(status.source.as_deref(), Some("sha256:1"));
    assert_eq!(bench.records(), 1);
    // The same again, and what it does not change.
    talk.apply(true, &[service(1)]).await;
    talk.apply(false, &[stop(service(1))]).await;
    let status = talk.until(unit(1), |status| status.gone).await;
    assert_eq!(status.state, WorkloadState::Stopped);
    until("its record is gone", || {
        bench.engine.starts(unit(1)) == 0 && bench.records() == 0
    })
    .await;
    assert_eq!(bench.engine.calls("start"), 1);
    assert!(bench.engine.is_empty());
    talk.remove(unit(1)).await;
    bench.forgotten(unit(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_that_are_kept_go_when_the_server_says_so() {
    let (bench, mut talk) = Bench::serving().await;
    let kept = Assignment {
        keep_volumes: true,
        ..stop(service(1))
    };
    talk.apply(false, std::slice::from_ref(&kept)).await;
    let status = talk.until(unit(1), |status| status.gone).await;
    assert!(status.kept);
    assert_eq!(bench.engine.calls("remove"), 0);
    talk.apply(false, &[stop(service(1))]).await;
    talk.until(unit(1), |status| status.gone && !status.kept)
        .await;
    assert_eq!(bench.engine.calls("remove"), 1);
    talk.remove(unit(1)).await;
    bench.forgotten(unit(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_is_given_the_time_to_end_that_its_file_says() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    let mut patient = service(1);
    patient.spec.stop_grace = Some(Duration::from_secs(3));
    talk.apply(true, &[patient.clone(), service(2)]).await;
    talk.ready(unit(1)).await;
    talk.ready(unit(2)).await;
    talk.apply(false, &[stop(patient), stop(service(2))]).await;
    for (number, grace) in [(1, 3), (2, 10)] {
        talk.until(unit(number), |status| status.gone).await;
        let given = bench.engine.grace(unit(number));
        assert_eq!(given, Some(Duration::from_secs(grace)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_set_replaces_what_is_there() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1), service(2)]).await;
    talk.ready(unit(1)).await;
    talk.ready(unit(2)).await;
    talk.apply(true, &[service(2), service(3)]).await;
    talk.ready(unit(3)).await;
    talk.gone(unit(1)).await;
    assert!(bench.engine.is_running(unit(2)) && bench.engine.starts(unit(2)) == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_leaves_no_units() {
    let (mut bench, talk) = Bench::serving().await;
    let goodbye = v1::Goodbye {
        code: "removed".to_owned(),
        detail: String::new(),
    };
    talk.session.send(Answer::Goodbye(goodbye)).await;
    bench.node.as_mut().expect("an agent").removed().await;
    assert!(bench.engine.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_names_its_step_reason_evidence_and_next_try() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    bench
        .engine
        .fail("prepare", Step::Prepare, Reason::ImagePullFailed);
    talk.apply(true, &[service(1)]).await;
    let status = talk.until(unit(1), |status| status.reason.is_some()).await;
    assert_eq!(status.reason, Some(Reason::ImagePullFailed));
    assert!(status.step == "prepare" && status.next_try_ms.is_some());
    talk.ready(unit(1)).await;
    bench.engine.print(unit(1), "listening on 80");
    bench.engine.print(unit(1), "panic: no disk");
    bench.engine.exit(unit(1), 2);
    let status = talk.until(unit(1), |status| status.reason.is_some()).await;
    assert_eq!(status.reason, Some(Reason::NonzeroExit));
    assert_eq!(status.evidence, ["listening on 80", "panic: no disk"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_stay_in_memory_and_are_waited_for_after_a_restart() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    let with_secrets = || {
        let secrets = v1::UnitSecrets {
            env: [("KEY".to_owned(), "hunter2".to_owned())].into(),
            ..v1::UnitSecrets::default()
        };
        vec![v1::UnitAssignment {
            assignment: serde_json::to_vec(&service(1)).unwrap().into(),
            secrets: Some(secrets),
            may_be_privileged: false,
        }]
    };
    talk.units(true, with_secrets()).await;
    talk.ready(unit(1)).await;
    assert_eq!(bench.engine.env(unit(1), "KEY").as_deref(), Some("hunter2"));
    let record = bench.dir.path().join(format!("units/{}.json", unit(1)));
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(!text.contains("hunter2") && text.contains("has_secrets"));
    bench.restart().await;
    let mut talk = bench.session().await;
    talk.ready(unit(1)).await;
    assert_eq!(bench.engine.starts(unit(1)), 1);
    bench.engine.exit(unit(1), 1);
    let waits = |status: &UnitStatus| status.detail.contains("secrets");
    talk.until(unit(1), waits).await;
    talk.units(true, with_secrets()).await;
    talk.until(unit(1), |status| status.ready && status.restarts == 1)
        .await;
}
