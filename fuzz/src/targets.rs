//! One function per place where bytes from outside are understood. None may panic, whatever the bytes are; what they
//! answer has to keep the limits that they were given.

use bytes::Bytes;
use pentimento_diffusion::{
    EmptyLibrary, Folder, LoadError, LoadOptions, Model, ModelFiles, Precision, SingleFile,
};
use pentimento_imaging::{Finish, Limits, decode, read_receipt};
use pentimento_protocols::{
    Answer, Call, Context, Delivery, Finished, HttpRequest, ModelProfile, Operation, Protocol, Received,
    Seed, Stopwatch,
    bedrock::{AccessKey, Auth, Bedrock, BedrockConfig, FallbackIds, Keyring, ModelMap},
    volcengine::{self, KnownLoras, Styles, Volcengine, VolcengineConfig},
};
use pentimento_request::{
    Accelerations, Canvas, ClipSkip, Conditioning, ErrorKind, GenerateError, GenerationRequest, Generator,
    GuidanceScale, NoiseSource, Progress, Prompt, PromptSyntax, SolverOptions, Stage, StepReport, Steps,
    Task, Verdict,
};
use std::{
    ops::ControlFlow,
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, UNIX_EPOCH},
};

/// A function over bytes.
pub type Target = fn(&[u8]);

/// Every target with the name of its corpus.
pub const ALL: [(&str, Target); 9] = [
    ("signatures", signatures),
    ("volcengine_signatures", volcengine_signatures),
    ("bodies", bodies),
    ("volcengine_bodies", volcengine_bodies),
    ("event_frames", event_frames),
    ("pictures", pictures),
    ("model_headers", model_headers),
    ("gguf_headers", gguf_headers),
    ("prompts", prompts),
];

const LIMITS: Limits = Limits { bytes: 1 << 20, pixels: 1 << 18 };
const STREAM: &str = "/model/stability.stable-diffusion-xl-v1%3A0/invoke-with-response-stream";
/// What Volcengine's bodies are sent to, chosen by their first byte.
const ACTIONS: [&str; 4] = [
    "/?Action=CVProcess&Version=2022-08-31",
    "/?Action=CVSync2AsyncGetResult&Version=2022-08-31",
    "/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31",
    "/?Action=AIGCStylizeImage&Version=2024-06-06",
];
const INVOKE: &str = "/model/stability.stable-diffusion-xl-v1%3A0/invoke";

/// A request's first line (its target), headers up to an empty line, and body, before a protocol that asks for keys.
pub fn signatures(data: &[u8]) {
    let key = AccessKey { id: "AKIDEXAMPLE".into(), secret: "secretEXAMPLEKEY".into(), session_token: None };
    let keyring = Keyring { access_keys: vec![key], api_keys: vec!["a-bearer-key".to_owned()] };
    let protocol = protocol(Auth::Required(keyring));
    let request = request_of(data);
    if protocol.claims(&request.method, &request.target) {
        let received = protocol.receive(&request, &context());
        assert!(
            received.is_err() || request.header("authorization").is_some(),
            "nobody is let in without a key"
        );
    }
}

/// A body before a protocol that asks nobody.
pub fn bodies(data: &[u8]) {
    let protocol = protocol(Auth::Off);
    if let Some(call) = understood(&protocol, INVOKE, data) {
        for error in [ErrorKind::Internal, ErrorKind::Overloaded] {
            let _ = protocol.answer(&call, Err(&GenerateError::new(error, "x")));
        }
        let Operation::Generate { request, seed: Seed::Given | Seed::Drawn { .. } } = &call.operation else {
            return;
        };
        check(request);
    }
}

/// As [`signatures`], before Volcengine's protocol.
pub fn volcengine_signatures(data: &[u8]) {
    let (id, secret) = ("AKLTEXAMPLE".to_owned(), "U0tFWEFNUExF".to_owned());
    let key = volcengine::AccessKey { id, secret, session_token: None };
    let protocol = cloud(volcengine::Auth::Required(vec![key]));
    let request = request_of(data);
    if protocol.claims(&request.method, &request.target) {
        let received = protocol.receive(&request, &context());
        assert!(
            received.is_err() || request.header("authorization").is_some(),
            "nobody is let in without a key"
        );
    }
}

/// A byte that chooses the action, and a body before Volcengine's protocol, which asks nobody.
pub fn volcengine_bodies(data: &[u8]) {
    let Some((action, body)) = data.split_first() else { return };
    let protocol = cloud(volcengine::Auth::Off);
    let target = ACTIONS[usize::from(*action) % ACTIONS.len()].to_owned();
    let body = Bytes::copy_from_slice(body);
    let request = HttpRequest { method: "POST".to_owned(), target, headers: vec![], body };
    let call = match protocol.receive(&request, &context()) {
        Ok(Received::Call(call)) => *call,
        Ok(Received::Fetch(fetch)) => {
            assert_eq!(fetch.urls.len(), 1, "one picture is wanted");
            match (fetch.resume)(Ok(vec![Bytes::from_static(PNG)])) {
                Ok(call) => call,
                Err(_) => return,
            }
        }
        Err(reply) => return assert!(reply.status >= 400 && reply.error.is_some()),
    };
    for error in [ErrorKind::Internal, ErrorKind::NoFace, ErrorKind::PromptRefused] {
        let _ = protocol.answer(&call, Err(&GenerateError::new(error, "x")));
    }
    if let Operation::Generate { request, .. } | Operation::Submit { request, .. } = &call.operation {
        let init = request.task.init().expect("there is a picture");
        assert!(init.size().pixels() <= 2048 * 2048, "what waits is no larger than it is drawn");
    }
}

/// A PNG of one pixel.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\x02\0\x01\
    H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82";

fn check(request: &GenerationRequest) {
    let init = request.task.init();
    assert!(init.is_none_or(|picture| picture.size().pixels() <= LIMITS.pixels), "limits of pictures hold");
}

/// An answer of these bytes as a stream of events, which has to be whole: lengths of frames that fit.
pub fn event_frames(data: &[u8]) {
    let protocol = protocol(Auth::Off);
    let body = b"{\"text_prompts\":[{\"text\":\"x\"}]}";
    let Some(call) = understood(&protocol, STREAM, body) else { panic!("the body is right") };
    assert_eq!(call.delivery, Delivery::Events);
    let message = String::from_utf8_lossy(data).into_owned();
    let file = Bytes::copy_from_slice(data);
    let (link, latency) = (None, Duration::from_millis(5));
    let finished = Finished { file, link, seed: 1, verdict: Verdict::Unchecked, latency };
    let answers = [
        protocol.answer(&call, Ok(&Answer::Picture(finished.clone()))).body,
        protocol.late_answer(&call, Ok(&Answer::Picture(finished))),
        protocol.late_answer(&call, Err(&GenerateError::new(ErrorKind::InvalidRequest, message))),
    ];
    for answer in answers {
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let word =
                |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().expect("four bytes")) as usize;
            let (whole, headers) = (word(0), word(4));
            assert!(whole >= headers + 16 && whole <= rest.len(), "a frame of {whole} with {headers}");
            rest = &rest[whole..];
        }
    }
}

/// A picture's file.
pub fn pictures(data: &[u8]) {
    if let Ok(picture) = decode(data, &LIMITS) {
        assert!(picture.size().pixels() <= LIMITS.pixels && data.len() <= LIMITS.bytes);
    }
    let _ = read_receipt(data);
    let _ = Finish::none().apply(data);
}

/// A file of weights in a model's folder, whose other files are right.
pub fn model_headers(data: &[u8]) {
    struct Files<'a>(&'a [u8]);
    impl ModelFiles for Files<'_> {
        fn describe(&self, path: &str) -> String {
            path.to_owned()
        }

        fn read(&self, path: &str) -> Result<Option<pentimento_diffusion::Bytes>, LoadError> {
            if path == "unet/diffusion_pytorch_model.safetensors" {
                return Ok(Some(self.0.to_vec().into()));
            }
            Ok(std::fs::read(model().join(path)).ok().map(Into::into))
        }

        fn list(&self, folder: &str) -> Result<Vec<String>, LoadError> {
            let entries = std::fs::read_dir(model().join(folder)).into_iter().flatten().flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            Ok(names)
        }
    }
    let _ = Model::inspect(&Files(data));
}

/// A whole model in one file of ggml's form, or any other.
pub fn gguf_headers(data: &[u8]) {
    let _ = SingleFile::held("fuzzed.gguf", data.to_vec().into());
}

/// A prompt, until it has been read and put into numbers.
pub fn prompts(data: &[u8]) {
    struct UntilTexts;
    impl Progress for UntilTexts {
        fn stage(&mut self, stage: Stage) -> ControlFlow<()> {
            if stage == Stage::Sample { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }

        fn step(&mut self, _: &StepReport<'_>) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    static TINY: LazyLock<Model> = LazyLock::new(|| {
        let options = LoadOptions {
            name: "tiny".to_owned(),
            precision: Precision::F32,
            pixel_cap: 1 << 18,
            library: Arc::new(EmptyLibrary),
            canny: None,
            tile: None,
            face: None,
        };
        Model::load(&Folder::new(model()), options).expect("a model of the goldens")
    });
    let text = String::from_utf8_lossy(data).into_owned();
    let request = GenerationRequest {
        model: "tiny".to_owned(),
        prompts: vec![Prompt { text, weight: 1.0 }],
        syntax: PromptSyntax::Emphasis,
        clip_skip: ClipSkip::LAST,
        task: Task::TextToImage,
        canvas: Canvas::Exact(None),
        hires: None,
        sampler: None,
        schedule: None,
        solver: SolverOptions::USUAL,
        steps: Steps::new(1).expect("one step"),
        guidance_scale: GuidanceScale::new(1.0).expect("in range"),
        guidance_rescale: 0.0,
        accelerations: Accelerations::NONE,
        seed: 1,
        noise: NoiseSource::TorchCpu,
        conditioning: Conditioning::none(),
        filter: None,
    };
    let _ = TINY.generate(&request, &mut UntilTexts);
}

/// The smallest model of the goldens.
fn model() -> &'static Path {
    static MODEL: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own.ancestors().find(|folder| folder.join("reference/goldens").is_dir());
        root.expect("it lies in the repository").join("reference/goldens/models/tiny-sd15")
    });
    &MODEL
}

fn protocol(auth: Auth) -> Bedrock {
    Bedrock::new(BedrockConfig::new(auth, ModelMap::new(profile(), FallbackIds::All), LIMITS))
}

fn cloud(auth: volcengine::Auth) -> Volcengine {
    let mut config = VolcengineConfig::new(auth, Styles::shipped(&profile()));
    config.loras = KnownLoras::new(|name| name.len() == 1);
    config.images.bytes = LIMITS.bytes;
    config.images.longest_side = 512;
    Volcengine::new(config)
}

fn profile() -> ModelProfile {
    ModelProfile::named("m")
}

fn context() -> Context {
    Context {
        now: UNIX_EPOCH + Duration::from_secs(1_795_294_228),
        request_id: "11111111-2222-3333-4444-555555555555".to_owned(),
        secure: false,
        stopwatch: Stopwatch::new(|| Duration::ZERO),
    }
}

fn understood(protocol: &Bedrock, target: &str, body: &[u8]) -> Option<Call> {
    let body = Bytes::copy_from_slice(body);
    let request = HttpRequest { method: "POST".to_owned(), target: target.to_owned(), headers: vec![], body };
    match protocol.receive(&request, &context()) {
        Ok(Received::Call(call)) => Some(*call),
        Ok(Received::Fetch(_)) | Err(_) => None,
    }
}

fn request_of(data: &[u8]) -> HttpRequest {
    let end = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let body = Bytes::copy_from_slice(data.get(end + 2..).unwrap_or_default());
    let mut lines = data[..end].split(|byte| *byte == b'\n');
    let target = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let header = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
        Some((name, line[colon + 1..].trim_ascii().to_vec()))
    };
    let headers = lines.filter_map(header).collect();
    HttpRequest { method: "POST".to_owned(), target, headers, body }
}
