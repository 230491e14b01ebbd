//! Metrics and logs.

use crate::{
    client::{ask, draw, get, post, socket_drawing},
    fake::Fixture,
};
use std::{
    io,
    sync::{Arc, Mutex},
};
use tracing_subscriber::fmt::MakeWriter;

#[tokio::test]
async fn metrics_tell_what_happened() {
    let fixture = Fixture::start().await;
    draw(fixture.address, "{}").await;
    draw(fixture.address, "{\"script\": \"panic\"}").await;
    draw(fixture.address, "{").await;
    ask(fixture.address, get("/nowhere")).await;
    let client = socket_drawing(fixture.address, "{\"script\": \"wait\"}").await;
    fixture.generator.begun(3).await;
    drop(client);
    fixture.generator.cancelled(1).await;
    draw(fixture.address, "{}").await;
    let page = ask(fixture.address, get("/metrics")).await;
    assert_eq!(page.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let expected = [
        "# HELP pentimento_queue_length ",
        "# TYPE pentimento_requests_total counter",
        "pentimento_requests_total{protocol=\"fake\",operation=\"generate\",delivery=\"json\",status=\"200\",error=\"none\"} 2\n",
        "pentimento_requests_total{protocol=\"fake\",operation=\"generate\",delivery=\"json\",status=\"500\",error=\"Internal\"} 1\n",
        "pentimento_requests_total{protocol=\"fake\",operation=\"none\",delivery=\"none\",status=\"400\",error=\"Malformed\"} 1\n",
        "pentimento_requests_total{protocol=\"none\",operation=\"none\",delivery=\"none\",status=\"404\",error=\"not_found\"} 1\n",
        "pentimento_requests_total{protocol=\"fake\",operation=\"generate\",delivery=\"json\",status=\"499\",error=\"client_left\"} 1\n",
        "# TYPE pentimento_stage_seconds histogram",
        "pentimento_stage_seconds_count{stage=\"text\"} 4\n",
        "pentimento_stage_seconds_count{stage=\"sample\"} 2\n",
        "pentimento_stage_seconds_count{stage=\"decode\"} 2\n",
        "pentimento_queue_wait_seconds_count 4\n",
        "pentimento_job_seconds_count 4\n",
        "pentimento_jobs_total{outcome=\"done\"} 2\n",
        "pentimento_jobs_total{outcome=\"internal\"} 1\n",
        "pentimento_jobs_total{outcome=\"cancelled\"} 1\n",
        "pentimento_cancelled_total{phase=\"running\"} 1\n",
        "pentimento_panics_total 1\n",
        "pentimento_coalesced_total 0\n",
        "pentimento_queue_length 0\n",
        "pentimento_jobs_running 0\n",
        "pentimento_request_bytes_total{protocol=\"fake\"} ",
        "pentimento_response_bytes_total{protocol=\"fake\"} ",
    ];
    for line in expected {
        assert!(page.text().contains(line), "no {line} in\n{}", page.text());
    }
}

#[tokio::test]
async fn metrics_tell_of_tasks_fetches_and_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = Fixture::with(|config| config.data_dir = Some(folder.path().to_owned())).await;
    let page = async || ask(fixture.address, get("/metrics")).await.text().to_owned();
    let done = draw(fixture.address, "{\"submit\": true}").await.json()["id"].to_string();
    let failed =
        draw(fixture.address, "{\"submit\": true, \"script\": \"fail\"}").await.json()["id"].to_string();
    for id in [&done, &failed] {
        let poll = format!("{{\"poll\": {id}}}");
        let mut answer = draw(fixture.address, &poll).await;
        while ["Queued", "Running"].iter().any(|state| answer.text().contains(state)) {
            answer = draw(fixture.address, &poll).await;
        }
    }
    for _ in 0..3 {
        draw(fixture.address, "{\"submit\": true, \"script\": \"wait\"}").await;
    }
    fixture.generator.begun(3).await;
    draw(fixture.address, "{\"urls\": [\"http://127.0.0.1/\"]}").await;
    let page = page().await;
    let expected = [
        "# HELP pentimento_tasks ",
        "pentimento_task_events_total{event=\"submitted\"} 5\n",
        "pentimento_task_events_total{event=\"done\"} 1\n",
        "pentimento_task_events_total{event=\"failed\"} 1\n",
        "pentimento_task_seconds_count 2\n",
        "pentimento_tasks{state=\"queued\"} 2\n",
        "pentimento_tasks{state=\"running\"} 1\n",
        "pentimento_tasks{state=\"done\"} 1\n",
        "pentimento_tasks{state=\"failed\"} 1\n",
        "pentimento_tasks{state=\"cancelled\"} 0\n",
        "pentimento_fetches_total{outcome=\"refused\"} 1\n",
        "pentimento_fetched_bytes_total 0\n",
        "pentimento_fetch_seconds_count 1\n",
        "pentimento_store_operations_total{operation=\"put\",outcome=\"done\"} 1\n",
        "pentimento_store_operations_total{operation=\"get\",outcome=\"done\"} 1\n",
        "pentimento_store_seconds_count{operation=\"put\"} 1\n",
        "pentimento_body_memory_bytes 0\n",
    ];
    for line in expected {
        assert!(page.contains(line), "no {line} in\n{page}");
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

// On one thread, so that the subscriber of this thread hears everything but the worker.
#[tokio::test(flavor = "current_thread")]
async fn a_request_is_one_line_without_secrets() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
    let _listening = tracing::subscriber::set_default(subscriber);
    let fixture = Fixture::start().await;
    let mut request = post("/fake/path?signature=SECRET1", "{\"script\": \"SECRET2\", \"seed\": 5}");
    request.headers_mut().insert("authorization", "Bearer SECRET3".parse().expect("a value"));
    assert_eq!(ask(fixture.address, request).await.status, 400);
    assert_eq!(draw(fixture.address, "{\"seed\": 77}").await.status, 200);

    let log = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("UTF-8");
    assert!(!log.contains("SECRET"), "{log}");
    let requests: Vec<_> = log.lines().filter(|line| line.contains("request_id")).collect();
    assert_eq!(requests.len(), 2, "{log}");
    for part in ["protocol=\"fake\"", "path=\"/fake/path\"", "status=400", "error=\"Invalid\"", "latency_ms="]
    {
        assert!(requests[0].contains(part), "no {part} in {}", requests[0]);
    }
    assert!(requests[1].contains("status=200") && requests[1].contains("seed=77"), "{}", requests[1]);
}

#[tokio::test(flavor = "current_thread")]
async fn values_in_json_lines_are_not_quoted_twice() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    let _listening = tracing::subscriber::set_default(subscriber);
    let fixture = Fixture::start().await;
    ask(fixture.address, get("/nowhere")).await;
    let log = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("UTF-8");
    let request = log.lines().find(|line| line.contains("request_id")).expect("a line");
    for part in [r#""method":"GET""#, r#""path":"/nowhere""#, r#""error":"not_found""#] {
        assert!(request.contains(part), "no {part} in {request}");
    }
}
