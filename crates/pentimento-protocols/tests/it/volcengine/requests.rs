use super::{KEY, PROCESS, body, call, config, file, json_of, model, open, photo, post, received};
use pentimento_imaging::{Corner, Format, Label, Mark};
use pentimento_protocols::{
    Answer, Call, FetchError, Finished, ModelProfile, Operation, Protocol, Received, Seed, TaskName,
    volcengine::{Auth, Style, Styles, UnknownLoras, Volcengine},
};
use pentimento_request::{
    ControlNetwork, Faces, GenerationRequest, Identity, Lora, PromptSyntax, Sampler, Schedule, Task, Texture,
    Verdict,
};
use serde_json::{Value, json};
use std::time::Duration;

/// The example of the vendor's SDK, but for its picture.
fn example() -> Value {
    json!({
        "req_key": KEY,
        "binary_data_base64": [photo()],
        "image_urls": [],
        "prompt": "good looking,(((pure white statue))), ((white hair)), 8k",
        "strength": 0.9,
        "seed": -1,
        "scale": 7,
        "ddim_steps": 25,
        "lora_multipers": {"shanzhagaoSomeSortOf_v1Epoch10": 0.4, "Colorwater_v4": 0.2, "Moxin_Shukezouma11": 0.2},
        "clip_skip": 2,
        "canny_weight": 0.8,
        "i2i_keep_texture": 1,
        "long_resolution": 704,
        "id_scale": 0.5,
        "return_url": true,
        "logo_info": {"add_logo": false, "position": 0, "language": 0, "opacity": 0.3}
    })
}

fn generation(call: &Call) -> (&GenerationRequest, Seed) {
    match &call.operation {
        Operation::Generate { request, seed } | Operation::Submit { request, seed, .. } => (request, *seed),
        other => panic!("{other:?}"),
    }
}

fn notes(call: &Call) -> Vec<String> {
    let finished = Finished {
        file: b"file".as_slice().into(),
        link: call.link.then(|| "http://x/y".to_owned()),
        seed: 1,
        verdict: Verdict::Unchecked,
        latency: Duration::ZERO,
    };
    let reply = json_of(&open().answer(call, Ok(&Answer::Picture(finished))));
    let notes = reply["data"]["pentimento_notes"].as_array().cloned().unwrap_or_default();
    notes.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_vendors_example_is_understood_and_what_is_left_out_is_told() {
    let call = call(PROCESS, example().to_string());
    let (request, seed) = generation(&call);
    assert_eq!((request.steps.get(), request.guidance_scale.get(), request.clip_skip.get()), (25, 7.0, 2));
    assert_eq!(request.syntax, PromptSyntax::Emphasis);
    assert_eq!(request.prompts[0].text, "good looking,(((pure white statue))), ((white hair)), 8k");
    assert!(request.prompts[1].weight < 0.0);
    assert_eq!((request.sampler, request.schedule), (Some(Sampler::KDpmpp2m), Some(Schedule::Karras)));
    let Task::ImageToImage { init, span } = &request.task else { panic!("{:?}", request.task) };
    assert_eq!((init.size().to_string().as_str(), span.strength.get()), ("528x704", 0.9));
    let lora = Lora { name: "Colorwater_v4".to_owned(), weight: 0.2, text_weight: None };
    assert_eq!(request.conditioning.loras, [lora]);
    assert!(request.conditioning.controls.is_empty() && request.conditioning.identity.is_none());
    assert_eq!(seed, Seed::Drawn { max: i32::MAX as u64 });
    assert!(call.link && call.finish.mark.is_none() && call.finish.format == Format::Jpeg);
    let notes = notes(&call);
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].contains("shanzhagaoSomeSortOf_v1Epoch10, Moxin_Shukezouma11"), "{notes:?}");
    assert!(notes[1].starts_with("canny_weight") && notes[2].starts_with("id_scale"), "{notes:?}");
}

#[test]
fn what_the_model_has_of_its_own_is_used() {
    let mut config = config(Auth::Off);
    let loras = vec!["Moxin_Shukezouma11".to_owned()];
    config.styles = Styles::shipped(&ModelProfile { draws_edges: true, loras, ..model() });
    let call = received(&Volcengine::new(config), &post(PROCESS, example().to_string())).expect("right");
    let conditioning = &generation(&call).0.conditioning;
    let names: Vec<_> = conditioning.loras.iter().map(|lora| lora.name.as_str()).collect();
    assert_eq!(names, ["Colorwater_v4", "Moxin_Shukezouma11"]);
    let [control] = &conditioning.controls[..] else { panic!("{:?}", conditioning.controls) };
    assert_eq!((&control.network, control.weight), (&ControlNetwork::Canny, 0.8));
    let notes = notes(&call);
    assert!(
        notes[0].ends_with("shanzhagaoSomeSortOf_v1Epoch10") && notes[1].starts_with("id_scale"),
        "{notes:?}"
    );
}

#[test]
fn a_picture_alone_is_enough() {
    for key in open_keys() {
        let call = call(PROCESS, json!({"req_key": key, "binary_data_base64": photo()}).to_string());
        let (request, _) = generation(&call);
        assert_eq!((request.steps.get(), request.guidance_scale.get()), (20, 8.0), "{key}");
        assert!(!request.prompts[0].text.is_empty(), "{key}");
        assert_eq!(request.conditioning.texture, Texture::Kept);
        assert_eq!(notes(&call), [""; 0], "{key}");
    }
}

fn open_keys() -> Vec<String> {
    let styles = pentimento_protocols::volcengine::Styles::shipped(&model());
    styles.keys().flat_map(|key| [key.to_owned(), format!("{key}_usage")]).collect()
}

#[test]
fn a_style_with_networks_and_faces_uses_them() {
    let mut config = config(Auth::Off);
    let style = Style {
        control: Some(ControlNetwork::Canny),
        shows_faces: true,
        unknown_loras: UnknownLoras::Refused,
        loras: vec![Lora { name: "own".to_owned(), weight: 0.5, text_weight: None }],
        ..Style::new(&model(), "x")
    };
    config.styles.insert(KEY, style);
    let protocol = Volcengine::new(config);
    let mut body = example();
    let refused = received(&protocol, &post(PROCESS, body.to_string())).expect_err("two are not there");
    let message = json_of(&refused)["message"].to_string();
    assert!(message.contains("shanzhagaoSomeSortOf_v1Epoch10, Moxin_Shukezouma11"), "{message}");
    assert_eq!(json_of(&refused)["code"], 50200);
    body["lora_multipers"] = json!({"Colorwater_v4": 0.2});
    let call = received(&protocol, &post(PROCESS, body.to_string())).expect("all are there");
    let conditioning = &generation(&call).0.conditioning;
    let names: Vec<_> = conditioning.loras.iter().map(|lora| lora.name.as_str()).collect();
    assert_eq!(names, ["Colorwater_v4", "own"]);
    assert_eq!((conditioning.controls.len(), conditioning.controls[0].weight), (1, 0.8));
    assert_eq!(conditioning.identity, Some(Identity { adapter: None, faces: Faces::OfInput, scale: 0.5 }));
    assert_eq!(notes(&call), [""; 0]);
}

#[test]
fn family_b_says_the_same_in_its_own_words() {
    let call = call(
        PROCESS,
        body(&json!({
            "req_key": "img2img_makoto_style", "prompt": "", "sub_prompts": ["a", "b"], "u_prompt": "c",
            "lora_map": {"Colorwater_v4": {"strength_model": 0.2, "strength_clip": 0.1}},
            "controlnet_weight": 1, "sampler_name": "dpmpp_2m", "scheduler": "exponential", "cn_mode": 0, "id_weight": 0,
            "apply_id_layer": "2,3", "tagger_settings": {"switch": false}, "vae_choice": 1
        })),
    );
    let (request, _) = generation(&call);
    assert!(request.prompts[0].text.ends_with(", c, a, b"), "{}", request.prompts[0].text);
    assert_eq!((request.sampler, request.schedule), (Some(Sampler::KDpmpp2m), Some(Schedule::Exponential)));
    let lora = Lora { name: "Colorwater_v4".to_owned(), weight: 0.2, text_weight: Some(0.1) };
    assert_eq!(request.conditioning.loras, [lora]);
}

#[test]
fn family_c_has_variants() {
    let with = |sub: &str| {
        let members = json!({"req_key": "img2img_comic_style", "sub_req_key": sub});
        generation(&call(PROCESS, body(&members))).0.prompts[0].text.clone()
    };
    assert_ne!(with("img2img_comic_style_marvel"), with("img2img_comic_style_future"));
    assert_ne!(with("img2img_comic_style_marvel"), with(""));
}

#[test]
fn unknown_samplers_and_members_are_ignored_the_samplers_with_a_note() {
    let call =
        call(PROCESS, body(&json!({"sampler_name": "no such", "scheduler": "none", "whatever": {"x": []}})));
    assert_eq!(generation(&call).0.sampler, Some(Sampler::KDpmpp2m));
    assert_eq!(notes(&call).len(), 2);
}

#[test]
fn marks_and_labels_are_as_asked() {
    let call = call(
        PROCESS,
        body(&json!({
            "logo_info": {"add_logo": true, "position": 3, "language": 1, "opacity": 1},
            "aigc_meta": {"producer_id": "7", "content_producer": "studio"}
        })),
    );
    assert_eq!(call.finish.mark, Mark::new("Generated by AI", Corner::TopRight, 1.0).ok());
    let label =
        Label { content_producer: "studio".to_owned(), produce_id: "7".to_owned(), ..Label::default() };
    assert_eq!(call.finish.label, Some(label));
    let own = super::call(PROCESS, body(&json!({"logo_info": {"add_logo": 1, "logo_text_content": "我的"}})));
    assert_eq!(own.finish.mark, Mark::new("我的", Corner::BottomRight, 0.3).ok());
}

#[test]
fn a_url_is_fetched_and_the_request_goes_on() {
    let wire = json!({"req_key": KEY, "image_urls": "https://example.com/a.jpg"}).to_string();
    let fetch = |result: Result<Vec<u8>, FetchError>| {
        let received = open().receive(&post(PROCESS, wire.clone()), &super::context()).expect("understood");
        let Received::Fetch(fetch) = received else { panic!("nothing to fetch") };
        assert_eq!(
            (fetch.urls.as_slice(), fetch.byte_limit),
            (&["https://example.com/a.jpg".to_owned()][..], 5 << 20)
        );
        (fetch.resume)(result.map(|file| vec![file.into()]))
    };
    let call = fetch(Ok(file(60, 80, Format::Png))).expect("a picture");
    assert!(matches!(call.operation, Operation::Generate { .. }));
    for (error, code) in
        [(FetchError::Refused, 50207), (FetchError::Failed, 50207), (FetchError::TooLarge, 50205)]
    {
        let reply = fetch(Err(error)).expect_err("no picture");
        assert_eq!((reply.status, json_of(&reply)["code"].as_u64()), (400, Some(code)), "{error:?}");
    }
    assert_eq!(json_of(&fetch(Ok(b"<html>".to_vec())).expect_err("no picture"))["code"], 50207);
}

#[test]
fn the_asynchronous_pair_names_the_task_by_caller_and_style() {
    let submitted = call("/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31", example().to_string());
    let Operation::Submit { scope, .. } = &submitted.operation else { panic!("{:?}", submitted.operation) };
    // How the picture is answered is asked for with the result.
    assert!(!submitted.link && submitted.same_work.is_none());
    let wire = json!({
        "req_key": KEY, "task_id": "7392616336519610409",
        "req_json": json!({"return_url": true, "logo_info": {"add_logo": true}, "aigc_meta": {"producer_id": "1"}}).to_string()
    });
    for action in ["CVSync2AsyncGetResult", "CVGetResult"] {
        let polled = call(&format!("/?Action={action}&Version=2022-08-31"), wire.to_string());
        let Operation::Poll(TaskName { id, scope: asked }) = &polled.operation else { panic!("{action}") };
        assert_eq!((id.as_str(), asked), ("7392616336519610409", scope));
        assert!(polled.link && polled.finish.mark.is_some() && polled.finish.label.is_some());
    }
    let cancel = call("/?Action=CVCancelTask&Version=2024-06-06", wire.to_string());
    assert!(matches!(&cancel.operation, Operation::Cancel(name) if name.scope == *scope));
    let other = json!({"req_key": "img2img_pastel_boys_style", "task_id": 7}).to_string();
    let other = call("/?Action=CVGetResult&Version=2022-08-31", other);
    assert!(matches!(&other.operation, Operation::Poll(name) if name.scope != *scope && name.id == "7"));
}

#[test]
fn legacy_actions_know_their_style() {
    let wire = json!({"binary_data_base64": [photo()]}).to_string();
    let call = call("/?Action=Img2ImgCreatePastelBoys2D&Version=2022-08-31", wire);
    assert!(generation(&call).0.prompts[0].text.contains("statue"));
}

#[test]
fn only_a_given_seed_makes_the_same_work() {
    let key = |seed: i64| call(PROCESS, body(&json!({"seed": seed}))).same_work;
    assert_eq!(key(-1), None);
    assert_eq!(key(7), key(7));
    assert_ne!(key(7), key(8));
    assert_eq!(generation(&call(PROCESS, body(&json!({"seed": 0})))).1, Seed::Given);
}
