//! A server whose protocol and generator do what a test tells them.
//!
//! The protocol reads `{"script": …, "seed": …, "key": …, "retry": …}` from `POST /fake/…`. The script tells the generator
//! what to do: `draw` at once, `wait` until the gate is open, `panic`, `fail`; `too-large` is not admitted. `unreadable` panics in the protocol.
//! `{"submit": true}` makes a task of it, `{"poll": ID}` and `{"cancel": ID}` ask for one; `link` and `jpeg` say what
//! becomes of the picture, `caller` whose it is, `urls` what has to be fetched first.

use bytes::Bytes;
use pentimento_imaging::{Finish, Format};
use pentimento_protocols::{
    Answer, Call, Context, Delivery, Fetch, FetchError, Finished, HttpRequest, KeepAlive, Operation,
    Protocol, Received, Refusal, Reply, Seed, TaskName, TaskReport,
};
use pentimento_request::{
    Accelerations, Canvas, Channels, ClipSkip, Conditioning, ErrorKind, GenerateError, GeneratedImage,
    GenerationRequest, Generator, GuidanceScale, NoiseSource, Picture, Progress, Prompt, PromptSyntax,
    Receipt, Sampler, Schedule, Size, SolverOptions, Stage, StepReport, Steps, Task, Verdict,
};
use pentimento_server::{Controls, Server, ServerConfig, ServerError};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::JoinHandle, time};

/// How long anything may take on a loaded machine before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Largest body that the fake protocol reads.
pub(crate) const BODY_LIMIT: usize = 1 << 20;

/// A running server with handles on its fakes.
pub(crate) struct Fixture {
    pub(crate) address: SocketAddr,
    pub(crate) generator: Arc<FakeGenerator>,
    pub(crate) protocol: Arc<FakeProtocol>,
    pub(crate) controls: Controls,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Fixture {
    /// A server with the defaults.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server with a changed configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig::new(([127, 0, 0, 1], 0).into());
        config.shutdown_timeout = Duration::from_secs(8);
        change(&mut config);
        let server = Server::bind(config).await.expect("a free port");
        let (generator, protocol) = (Arc::new(FakeGenerator::default()), Arc::new(FakeProtocol::default()));
        let (stop, stopped) = oneshot::channel();
        let (address, controls) = (server.local_addr(), server.controls());
        let running = tokio::spawn(server.run(vec![protocol.clone()], generator.clone(), async {
            let _ = stopped.await;
        }));
        Self { address, generator, protocol, controls, stop: Some(stop), running }
    }

    /// Gives the shutdown signal.
    pub(crate) fn signal(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the server's end.
    pub(crate) async fn ended(self) {
        let ended = time::timeout(PATIENCE, self.running).await;
        ended.expect("ends in time").expect("does not panic").expect("ends well");
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// Draws grey squares, when it may.
#[derive(Default)]
pub(crate) struct FakeGenerator {
    state: Mutex<Counts>,
    gate: Condvar,
}

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) begun: usize,
    pub(crate) drawn: usize,
    pub(crate) cancelled: usize,
    /// Seeds of everything that was begun.
    pub(crate) seeds: Vec<u64>,
    /// Whether scripts that wait may go on.
    pub(crate) open: bool,
}

impl FakeGenerator {
    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().expect("not poisoned").clone()
    }

    /// Seeds of everything that was begun, in that order.
    pub(crate) fn seeds(&self) -> Vec<u64> {
        self.counts().seeds
    }

    /// Lets all scripts that wait go on.
    pub(crate) fn open(&self) {
        self.change(|counts| counts.open = true);
        self.gate.notify_all();
    }

    /// Waits until so many generations have begun.
    pub(crate) async fn begun(&self, count: usize) {
        eventually("a generation begins", || self.counts().begun >= count).await;
    }

    /// Waits until so many generations were broken off.
    pub(crate) async fn cancelled(&self, count: usize) {
        eventually("a generation is cancelled", || self.counts().cancelled >= count).await;
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state.lock().expect("not poisoned"));
    }

    /// Steps of a few milliseconds until the gate is open.
    fn wait(&self, progress: &mut dyn Progress) -> Result<(), GenerateError> {
        let begun = Instant::now();
        loop {
            let state = self.state.lock().expect("not poisoned");
            let (state, _) = self.gate.wait_timeout(state, Duration::from_millis(10)).expect("not poisoned");
            if state.open {
                return Ok(());
            }
            drop(state);
            assert!(begun.elapsed() < 3 * PATIENCE, "a test forgot its gate");
            let report = StepReport { step: 1, of: 2, preview: &|| None };
            if progress.step(&report).is_break() {
                self.change(|counts| counts.cancelled += 1);
                return Err(GenerateError::new(ErrorKind::Cancelled, "broken off"));
            }
        }
    }
}

impl Generator for FakeGenerator {
    fn generate(
        &self,
        request: &GenerationRequest,
        progress: &mut dyn Progress,
    ) -> Result<GeneratedImage, GenerateError> {
        self.change(|counts| {
            counts.begun += 1;
            counts.seeds.push(request.seed);
        });
        let _ = progress.stage(Stage::Text);
        let _ = progress.stage(Stage::Sample);
        match request.prompts[0].text.as_str() {
            "draw" => {}
            "wait" => self.wait(progress)?,
            "panic" => panic!("the script says so"),
            "fail" => {
                let cause = std::io::Error::other("the deepest cause");
                return Err(GenerateError::caused_by(ErrorKind::Internal, "secret detail", cause));
            }
            other => return Err(GenerateError::new(ErrorKind::InvalidRequest, other)),
        }
        let _ = progress.stage(Stage::Decode);
        self.change(|counts| counts.drawn += 1);
        Ok(GeneratedImage { picture: grey(), receipt: receipt(request) })
    }

    fn admit(&self, request: &GenerationRequest) -> Result<(), GenerateError> {
        match request.prompts[0].text.as_str() {
            "too-large" => Err(GenerateError::new(ErrorKind::InvalidRequest, "too large")),
            "admit-panic" => panic!("the script says so"),
            _ => Ok(()),
        }
    }
}

fn grey() -> Picture {
    let size = Size::new(8, 8).expect("a size");
    Picture::new(size, Channels::Rgb, vec![128; 8 * 8 * 3]).expect("as many bytes")
}

fn receipt(request: &GenerationRequest) -> Receipt {
    let size = Size::new(8, 8).expect("a size");
    Receipt {
        engine: "fake".to_owned(),
        model: request.model.clone(),
        model_hash: String::new(),
        task: "text-to-image",
        seed: request.seed,
        sampler: Sampler::ALL[0],
        schedule: Schedule::ALL[0],
        solver: SolverOptions::USUAL,
        noise: NoiseSource::TorchCpu,
        syntax: PromptSyntax::Plain,
        clip_skip: ClipSkip::LAST,
        steps: 2,
        steps_run: 2,
        sigmas: vec![1.0, 0.0],
        guidance_scale: 1.0,
        guidance_rescale: 0.0,
        accelerations: None,
        strength: 1.0,
        hires: None,
        worked_at: size,
        region: None,
        size,
        precision: "f32",
        prompts: vec![],
        verdict: Verdict::Unchecked,
        loras: vec![],
        controls: vec![],
        looks: vec![],
        clip_guidance: None,
        notes: vec![],
        pixels_hash: String::new(),
        timings: vec![],
        peak_memory: None,
    }
}

/// JSON in, JSON out, and a memory of what it was shown.
#[derive(Default)]
pub(crate) struct FakeProtocol {
    seen: Mutex<Vec<(HttpRequest, Context)>>,
}

impl FakeProtocol {
    /// The latest request that was shown to the protocol.
    pub(crate) fn last(&self) -> (HttpRequest, Context) {
        self.seen.lock().expect("not poisoned").last().expect("a request").clone()
    }

    /// How many requests were shown to the protocol.
    pub(crate) fn shown(&self) -> usize {
        self.seen.lock().expect("not poisoned").len()
    }
}

impl Protocol for FakeProtocol {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn claims(&self, method: &str, target: &str) -> bool {
        method == "POST" && target.starts_with("/fake/")
    }

    fn body_limit(&self) -> usize {
        BODY_LIMIT
    }

    fn receive(&self, request: &HttpRequest, context: &Context) -> Result<Received, Reply> {
        self.seen.lock().expect("not poisoned").push((request.clone(), context.clone()));
        let Ok(wire) = serde_json::from_slice::<Value>(&request.body) else {
            return Err(failure(400, "Malformed", "not JSON"));
        };
        let script = wire["script"].as_str().unwrap_or("draw");
        assert!(script != "unreadable", "the script says so");
        let call = call_of(&wire, script, context);
        let Some(urls) = wire["urls"].as_array() else { return Ok(Received::Call(Box::new(call))) };
        let urls = urls.iter().filter_map(|url| url.as_str().map(str::to_owned)).collect();
        let resume = move |files: Result<Vec<Bytes>, FetchError>| match files {
            Ok(files) => {
                let Operation::Generate { mut request, .. } = call.operation.clone() else {
                    return Err(failure(400, "Malformed", "no picture"));
                };
                // What was fetched decides the seed, so that a test can see it.
                request.seed = files.iter().map(|file| file.len() as u64).sum();
                let operation = Operation::Generate { request, seed: Seed::Given };
                Ok(Call { operation, ..call })
            }
            Err(FetchError::Refused) => Err(failure(400, "FetchRefused", "refused")),
            Err(FetchError::Failed) => Err(failure(400, "FetchFailed", "failed")),
            Err(FetchError::TooLarge) => Err(failure(400, "FetchTooLarge", "too large")),
        };
        let byte_limit = wire["byte_limit"].as_u64().unwrap_or(5 << 20) as usize;
        Ok(Received::Fetch(Fetch { urls, byte_limit, resume: Box::new(resume) }))
    }

    fn refuse(&self, refusal: Refusal, _: &Context) -> Reply {
        match refusal {
            Refusal::BodyTooLarge => failure(413, "TooLarge", "too large"),
            Refusal::BodyTooSlow => failure(408, "TooSlow", "too slow"),
            Refusal::Overloaded => failure(429, "Throttled", "too much at once"),
            Refusal::ShuttingDown => failure(503, "Unavailable", "shutting down"),
            Refusal::Internal => failure(500, "Internal", "internal"),
        }
    }

    fn answer(&self, call: &Call, outcome: Result<&Answer, &GenerateError>) -> Reply {
        match outcome {
            Ok(Answer::Picture(finished)) if call.delivery == Delivery::Picture => {
                success(finished.file.clone())
            }
            Ok(Answer::Picture(finished)) => success(text(finished)),
            Ok(Answer::Task(task)) => success(task_text(task)),
            Err(error) => {
                let (status, name) = match error.kind() {
                    ErrorKind::InvalidRequest => (400, "Invalid"),
                    ErrorKind::Overloaded => (429, "Throttled"),
                    ErrorKind::RateLimited => (429, "TooOften"),
                    ErrorKind::Unavailable => (503, "Unavailable"),
                    ErrorKind::DeadlineExceeded => (408, "Timeout"),
                    _ => (500, "Internal"),
                };
                failure(status, name, name)
            }
        }
    }

    fn keep_alive(&self, call: &Call) -> Option<KeepAlive> {
        let beat = Bytes::from_static(b" ");
        (call.delivery != Delivery::Picture).then(|| KeepAlive { head: success(Bytes::new()), beat })
    }

    fn late_answer(&self, _: &Call, outcome: Result<&Answer, &GenerateError>) -> Bytes {
        match outcome {
            Ok(Answer::Picture(finished)) => text(finished),
            Ok(Answer::Task(task)) => task_text(task),
            Err(error) => json!({"late": format!("{:?}", error.kind())}).to_string().into(),
        }
    }
}

fn call_of(wire: &Value, script: &str, context: &Context) -> Call {
    let request = Box::new(request_of(script, wire["seed"].as_u64()));
    let seed = if wire["seed"].is_null() { Seed::Drawn { max: 1000 } } else { Seed::Given };
    let caller = wire["caller"].as_str().map(str::to_owned);
    let scope = caller.clone().unwrap_or_default();
    let name = |id: &Value| TaskName { id: id.as_str().expect("an id").to_owned(), scope: scope.clone() };
    let operation = match wire {
        _ if wire["submit"] == true => Operation::Submit { request, seed, scope },
        _ if !wire["poll"].is_null() => Operation::Poll(name(&wire["poll"])),
        _ if !wire["cancel"].is_null() => Operation::Cancel(name(&wire["cancel"])),
        _ => Operation::Generate { request, seed },
    };
    let format = if wire["jpeg"] == true { Format::Jpeg } else { Format::Png };
    Call {
        operation,
        delivery: if wire["bare"] == true { Delivery::Picture } else { Delivery::Json },
        same_work: wire["key"].as_str().map(str::to_owned),
        may_retry: wire["retry"] == true,
        request_id: context.request_id.clone(),
        memo: None,
        finish: Finish { format, ..Finish::none() },
        link: wire["link"] == true,
        caller,
    }
}

fn task_text(task: &TaskReport) -> Bytes {
    let mut shown = json!({"id": task.id, "state": format!("{:?}", task.state)});
    if let Some(finished) = &task.finished {
        shown["finished"] = serde_json::from_slice(&text(finished)).expect("JSON");
    }
    shown.to_string().into()
}

fn request_of(script: &str, seed: Option<u64>) -> GenerationRequest {
    GenerationRequest {
        model: "fake".to_owned(),
        prompts: vec![Prompt { text: script.to_owned(), weight: 1.0 }],
        task: Task::TextToImage,
        canvas: Canvas::Native(None),
        sampler: None,
        schedule: None,
        steps: Steps::new(2).expect("two steps"),
        guidance_scale: GuidanceScale::new(1.0).expect("in range"),
        guidance_rescale: 0.0,
        accelerations: Accelerations::NONE,
        syntax: PromptSyntax::Emphasis,
        clip_skip: ClipSkip::LAST,
        hires: None,
        solver: SolverOptions::USUAL,
        noise: NoiseSource::TorchCpu,
        conditioning: Conditioning::none(),
        filter: None,
        seed: seed.unwrap_or_default(),
    }
}

fn text(finished: &Finished) -> Bytes {
    let mut shown = json!({"seed": finished.seed, "png": finished.file.starts_with(b"\x89PNG")});
    if let Some(link) = &finished.link {
        shown["link"] = link.as_str().into();
    }
    shown.to_string().into()
}

fn success(body: Bytes) -> Reply {
    let headers = vec![("content-type", "application/json".to_owned())];
    Reply { status: 200, headers, body, error: None }
}

fn failure(status: u16, name: &'static str, message: &str) -> Reply {
    let headers = vec![("content-type", "application/json".to_owned()), ("x-fake-error", name.to_owned())];
    Reply { status, headers, body: json!({"message": message}).to_string().into(), error: Some(name) }
}
