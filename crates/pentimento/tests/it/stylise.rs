//! Volcengine's protocol before the engine: a style with adapters and a control network, on tiny random models.

use crate::{
    program::{Folder, copy_tree, picture, repository},
    serve::Server,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pentimento_imaging::{Format, encode, read_receipt};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const STYLE: &str = "img2img_pastel_boys_style_usage";

/// How long a task may take on a loaded machine before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server whose styles have a model with a network for edges, the same network by name, adapters, and a model without.
fn serving() -> (Folder, Server) {
    let folder = Folder::new();
    let model = folder.path("tiny");
    copy_tree(&repository("reference/goldens/models/tiny-sd15"), Path::new(&model));
    copy_tree(Path::new(&model), Path::new(&folder.path("bare")));
    let network = repository("reference/goldens/controls/canny");
    copy_tree(&network, &Path::new(&model).join("controlnet-canny"));
    copy_tree(&network, Path::new(&folder.path("controls/edges")));
    copy_tree(&repository("reference/goldens/lora"), Path::new(&folder.path("loras")));
    let config = folder.write(
        "pentimento.toml",
        br#"
model = "./tiny"
loras_dirs = ["loras"]
controls_dirs = ["controls"]
[volcengine]
picture_format = "png"
[volcengine.styles.img2img_pastel_boys_style]
model = "./tiny"
control = "canny"
[volcengine.styles.img2img_cartoon_style]
model = "./tiny"
control = "edges"
loras = { kohya = 0.8 }
unknown_loras = "leave-out"
[volcengine.styles.img2img_makoto_style]
model = "./bare"
"#,
    );
    let server = Server::start(&["--no-auth", "--config", &config], &[]);
    (folder, server)
}

/// A request's body: these members and the usual ones.
fn body(members: &Value) -> String {
    let photo = STANDARD.encode(fs::read(repository("examples/scene.png")).expect("a picture"));
    let mut body = json!({
        "req_key": STYLE, "binary_data_base64": [photo], "prompt": "a (cat:1.2)", "seed": 7, "ddim_steps": 3,
        "long_resolution": 256, "canny_weight": 0,
    });
    for (name, value) in members.as_object().expect("members") {
        body[name] = value.clone();
    }
    body.to_string()
}

fn ask(server: &Server, action: &str, body: &str) -> (u16, Value) {
    let (status, answer) = server.ask(&format!("POST /?Action={action}&Version=2022-08-31"), body);
    (status, serde_json::from_slice(&answer).expect("JSON"))
}

/// A drawn picture: its file, its receipt, and the answer's notes.
struct Drawn {
    file: Vec<u8>,
    receipt: Value,
    notes: Value,
}

impl Drawn {
    fn of(data: &Value) -> Self {
        let text = data["binary_data_base64"][0].as_str().expect("a picture");
        let file = STANDARD.decode(text).expect("base64");
        let receipt = read_receipt(&file).expect("a receipt");
        Self { file, receipt, notes: data["pentimento_notes"].clone() }
    }

    fn pixels(&self) -> &str {
        self.receipt["pixels_hash"].as_str().expect("a hash")
    }
}

fn draw(server: &Server, members: &Value) -> Drawn {
    let (status, answer) = ask(server, "CVProcess", &body(members));
    assert_eq!((status, &answer["code"]), (200, &json!(10000)), "{answer}");
    Drawn::of(&answer["data"])
}

#[test]
fn edges_and_adapters_reach_the_engine_with_their_weights() {
    let (_folder, server) = serving();
    let plain = draw(&server, &json!({}));
    assert!(plain.notes.is_null() && plain.receipt["notes"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(plain.receipt["controls"], json!([]));

    let edges = draw(&server, &json!({"canny_weight": 0.8}));
    assert_ne!(edges.pixels(), plain.pixels());
    assert_eq!(edges.receipt["controls"][0]["weight"], 0.8, "{}", edges.receipt);
    let again = draw(&server, &json!({"canny_weight": 0.8}));
    assert_eq!(edges.pixels(), again.pixels());
    assert_ne!(draw(&server, &json!({"canny_weight": 0.3})).pixels(), edges.pixels());

    let adapted = draw(&server, &json!({"lora_multipers": {"kohya": 0.8}}));
    assert_ne!(adapted.pixels(), plain.pixels());
    let told = &adapted.receipt["loras"][0];
    assert_eq!((&told["name"], &told["weight"]), (&json!("kohya"), &json!(0.8)), "{}", adapted.receipt);
    assert_ne!(draw(&server, &json!({"lora_multipliers": {"kohya": 0.3}})).pixels(), adapted.pixels());
    assert_eq!(draw(&server, &json!({"lora_multipers": {"kohya": 0}})).pixels(), plain.pixels());
    let two = draw(&server, &json!({"lora_multipers": {"kohya": 0.8, "loha": 0.5}}));
    assert_eq!(two.receipt["loras"].as_array().map(Vec::len), Some(2));
    assert_ne!(two.pixels(), adapted.pixels());

    // Another style: the network by its name, the adapter by the style.
    let key = json!({"req_key": "img2img_cartoon_style"});
    let own = draw(&server, &key);
    assert_eq!(own.pixels(), adapted.pixels());
    let own_edges = draw(
        &server,
        &json!({"req_key": "img2img_cartoon_style", "canny_weight": null, "controlnet_weight": 0.8,
        "lora_map": {"kohya": {"strength_model": 0, "strength_clip": 0}}}),
    );
    assert_eq!(own_edges.pixels(), edges.pixels());
    let apart = draw(&server, &json!({"lora_map": {"kohya": {"strength_model": 0.8, "strength_clip": 0}}}));
    assert!(apart.pixels() != adapted.pixels() && apart.pixels() != plain.pixels());
}

#[test]
fn what_is_left_out_stands_in_the_answer_and_in_the_receipt() {
    let (_folder, server) = serving();
    let (status, answer) =
        ask(&server, "CVProcess", &body(&json!({"lora_multipers": {"kohya": 1, "absent": 1}})));
    assert_eq!((status, &answer["code"]), (400, &json!(50200)));
    assert!(answer["message"].as_str().is_some_and(|text| text.contains("absent")), "{answer}");

    let drawn = draw(
        &server,
        &json!({"req_key": "img2img_cartoon_style",
        "lora_multipers": {"absent": 1}, "sampler_name": "nosuch", "id_scale": 0.5}),
    );
    for member in ["lora_multipers", "sampler_name", "id_scale"] {
        let is_told = |notes: &Value| {
            let notes = notes.as_array().into_iter().flatten();
            notes.filter(|note| note.as_str().is_some_and(|note| note.starts_with(member))).count() == 1
        };
        assert!(is_told(&drawn.notes), "{member}: {}", drawn.notes);
        assert!(is_told(&drawn.receipt["notes"]), "{member}: {}", drawn.receipt);
    }
    let drawn = draw(&server, &json!({"req_key": "img2img_makoto_style", "canny_weight": 0.5}));
    assert!(drawn.receipt["notes"][0].as_str().is_some_and(|note| note.starts_with("canny_weight")));
}

#[test]
fn a_task_draws_what_the_same_request_draws_at_once() {
    let (_folder, server) = serving();
    let members =
        json!({"req_key": "img2img_cartoon_style", "canny_weight": 0.8, "lora_multipers": {"absent": 1}});
    let at_once = draw(&server, &members);
    let (status, answer) = ask(&server, "CVSync2AsyncSubmitTask", &body(&members));
    assert_eq!(status, 200, "{answer}");
    let question =
        json!({"req_key": "img2img_cartoon_style", "task_id": answer["data"]["task_id"]}).to_string();
    let begun = Instant::now();
    let later = loop {
        let (status, answer) = ask(&server, "CVSync2AsyncGetResult", &question);
        assert_eq!(status, 200, "{answer}");
        if answer["data"]["status"] == "done" {
            break Drawn::of(&answer["data"]);
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(later.pixels(), at_once.pixels());
    assert_eq!(later.receipt["notes"], at_once.receipt["notes"]);
    assert!(later.file.starts_with(b"\x89PNG"));
}

/// A photograph as PNG, in base64.
fn photo(name: &str) -> String {
    let photo = picture(repository(&format!("reference/goldens/faces/photos/{name}.webp")));
    STANDARD.encode(encode(&photo, Format::Png, None).expect("a file"))
}

#[test]
fn a_face_is_shown_where_adapter_and_embedder_are_there_and_no_face_is_an_error_of_its_own() {
    let folder = Folder::new();
    let (model, data) = (folder.path("tiny"), folder.path("data"));
    copy_tree(&repository("reference/goldens/models/tiny-sd15"), Path::new(&model));
    let goldens = repository("reference/goldens");
    for (from, to) in [
        ("ip_adapter/faceid_512.safetensors", "ip-adapters/faceid_512.safetensors"),
        ("faces/networks/w600k_tiny.onnx", "faces/w600k_tiny.onnx"),
    ] {
        let to = Path::new(&data).join(to);
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(goldens.join(from), to).expect("a copy");
    }
    let config = folder.write(
        "pentimento.toml",
        b"model = \"./tiny\"\n[volcengine]\npicture_format = \"png\"\n\
          [volcengine.styles.img2img_cartoon_style]\nshows_faces = false\n",
    );
    let server = Server::start(&["--no-auth", "--config", &config, "--data-dir", &data], &[]);
    let (face, nobody) = (photo("face"), photo("nobody"));
    let plain = draw(&server, &json!({"binary_data_base64": [face], "id_scale": 0}));
    let known = draw(&server, &json!({"binary_data_base64": [face], "id_scale": 0.5}));
    assert_ne!(known.pixels(), plain.pixels());
    let look = &known.receipt["looks"][0];
    assert_eq!((&look["name"], &look["scale"]), (&json!("faceid_512"), &json!(0.5)), "{}", known.receipt);
    assert_eq!(look["faces"].as_array().map(Vec::len), Some(1), "{look}");
    assert!(known.notes.is_null(), "{}", known.notes);
    let weaker = draw(&server, &json!({"binary_data_base64": [face], "id_weight": 0.2}));
    assert!(weaker.pixels() != known.pixels() && weaker.pixels() != plain.pixels());

    let wrong = body(&json!({"binary_data_base64": [nobody], "id_scale": 0.5}));
    let (status, answer) = ask(&server, "CVProcess", &wrong);
    assert_eq!((status, &answer["code"]), (400, &json!(60102)), "{answer}");
    draw(&server, &json!({"binary_data_base64": [nobody], "id_scale": 0}));
    // A style that is told not to look for faces says that it did not.
    let left_out =
        json!({"binary_data_base64": [nobody], "id_scale": 0.5, "req_key": "img2img_cartoon_style"});
    let told = draw(&server, &left_out).notes;
    assert!(told[0].as_str().is_some_and(|note| note.starts_with("id_scale")), "{told}");

    // A task ends with the same error.
    let (status, answer) = ask(&server, "CVSync2AsyncSubmitTask", &wrong);
    assert_eq!(status, 200, "{answer}");
    let question = json!({"req_key": STYLE, "task_id": answer["data"]["task_id"]}).to_string();
    let begun = Instant::now();
    loop {
        let (_, answer) = ask(&server, "CVSync2AsyncGetResult", &question);
        if answer["code"] == 60102 {
            break;
        }
        assert!(answer["code"] == 10000 && answer["data"]["status"] != "done", "{answer}");
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(unix)]
#[test]
fn weights_that_are_cut_or_replaced_while_they_are_used_harm_only_what_still_needs_the_file() {
    let (folder, server) = serving();
    let weights = Path::new(&folder.path("tiny/unet")).join("diffusion_pytorch_model.safetensors");
    let whole = fs::read(&weights).expect("weights");
    let before = draw(&server, &json!({}));

    fs::write(&weights, &whole[..whole.len() / 2]).expect("it is cut");
    assert_eq!(
        draw(&server, &json!({})).pixels(),
        before.pixels(),
        "what was loaded does not hang on the file"
    );
    // An adapter changes weights that are read once more.
    let (status, answer) = ask(&server, "CVProcess", &body(&json!({"lora_multipers": {"kohya": 0.8}})));
    assert!((status, &answer["code"]) == (500, &json!(50501)) || status == 200, "{answer}");
    assert_eq!(draw(&server, &json!({})).pixels(), before.pixels(), "and the process lives");

    // Another model of the same shapes: taken up when the server is told to look again, not before.
    let mut other = whole.clone();
    let length = other.len();
    other[length / 2..].reverse();
    fs::write(&weights, &other).expect("it is replaced");
    assert_eq!(draw(&server, &json!({})).pixels(), before.pixels());
    fs::write(&weights, &whole).expect("it is put back");
    server.signal("-HUP");
    let begun = Instant::now();
    loop {
        let (status, answer) = ask(&server, "CVProcess", &body(&json!({"lora_multipers": {"kohya": 0.8}})));
        if status == 200 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(server.end().0, Some(0));
}
