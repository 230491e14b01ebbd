use super::{KEY, PROCESS, body, config, file, json_of, open, photo, post, received};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pentimento_imaging::Format;
use pentimento_protocols::{
    Protocol, Refusal,
    volcengine::{Auth, Volcengine},
};
use serde_json::{Value, json};

/// Bodies that are refused: the code, and a part of the message.
#[test]
fn wrong_bodies_have_their_codes() {
    let with = |members: Value| body(&members);
    let table: Vec<(String, u64, &str)> = vec![
        (String::new(), 50204, "JSON object"),
        ("[]".into(), 50204, "JSON object"),
        ("{".into(), 50204, "JSON object"),
        ("\"x\"".into(), 50204, "JSON object"),
        ("null".into(), 50204, "JSON object"),
        ("[".repeat(100_000), 50204, "JSON object"),
        (r#"{"req_key":"a","req_key":"b"}"#.into(), 50204, "JSON object"),
        ("{}".into(), 50201, "req_key"),
        (r#"{"req_key":""}"#.into(), 50201, "req_key"),
        (r#"{"req_key":null}"#.into(), 50201, "req_key"),
        (r#"{"req_key":1}"#.into(), 50204, "req_key"),
        (with(json!({"req_key": "nosuch"})), 50200, "req_key not supported"),
        (with(json!({"req_key": "i2i_inpainting"})), 50200, "req_key not supported"),
        (with(json!({"sub_req_key": "img2img_comic_style_marvel"})), 50200, "sub_req_key"),
        (json!({"req_key": KEY}).to_string(), 50206, "Image Empty"),
        (
            json!({"req_key": KEY, "binary_data_base64": [], "image_urls": []}).to_string(),
            50206,
            "Image Empty",
        ),
        (json!({"req_key": KEY, "binary_data_base64": [""]}).to_string(), 50206, "Image Empty"),
        (with(json!({"binary_data_base64": [photo(), photo()]})), 50200, "exactly one image"),
        (with(json!({"image_urls": ["http://a/", "http://b/"]})), 50200, "exactly one image"),
        (with(json!({"binary_data_base64": 7})), 50204, "binary_data_base64"),
        (with(json!({"binary_data_base64": [7]})), 50204, "binary_data_base64"),
        (with(json!({"binary_data_base64": {"a": "b"}})), 50204, "binary_data_base64"),
        (with(json!({"binary_data_base64": ["data:image/png;base64,aGVsbG8="]})), 50207, "data:"),
        (with(json!({"binary_data_base64": ["***"]})), 50207, "no base64"),
        (with(json!({"binary_data_base64": ["aGVsbG8="]})), 50207, "none of jpeg, png"),
        (
            with(json!({"binary_data_base64": [STANDARD.encode(file(9, 9, Format::WebP))]})),
            50207,
            "none of jpeg, png",
        ),
        (
            with(json!({"binary_data_base64": [STANDARD.encode(&file(9, 9, Format::Png)[..50])]})),
            50207,
            "png",
        ),
        (
            with(json!({"binary_data_base64": [STANDARD.encode(file(4097, 1, Format::Png))]})),
            50205,
            "4096x4096",
        ),
        (with(json!({"binary_data_base64": [STANDARD.encode(vec![0; (5 << 20) + 1])]})), 50205, "bytes"),
        (with(json!({"prompt": 7})), 50204, "prompt"),
        (with(json!({"prompt": "x".repeat(4001)})), 50200, "4000"),
        (with(json!({"sub_prompts": [7]})), 50204, "sub_prompts"),
        (with(json!({"strength": "0.5"})), 50204, "strength"),
        (with(json!({"strength": true})), 50204, "strength"),
        (with(json!({"strength": 1.01})), 50200, "strength goes from 0 to 1"),
        (with(json!({"strength": -0.01})), 50200, "strength"),
        (with(json!({"seed": -2})), 50200, "seed"),
        (with(json!({"seed": 1.5})), 50200, "seed"),
        (with(json!({"seed": "1"})), 50204, "seed"),
        (with(json!({"seed": 1e30})), 50200, "seed"),
        (with(json!({"scale": 0.5})), 50200, "scale goes from 1 to 30"),
        (with(json!({"scale": 31})), 50200, "scale"),
        (with(json!({"ddim_steps": 0})), 50200, "ddim_steps"),
        (with(json!({"ddim_steps": 51})), 50200, "from 1 to 50"),
        (with(json!({"ddim_steps": 20.5})), 50200, "ddim_steps"),
        (with(json!({"clip_skip": 0})), 50200, "clip_skip"),
        (with(json!({"clip_skip": 4})), 50200, "from 1 to 3"),
        (with(json!({"canny_weight": 1.5})), 50200, "canny_weight"),
        (with(json!({"controlnet_weight": -1})), 50200, "controlnet_weight"),
        (with(json!({"sampler_name": 3})), 50204, "sampler_name"),
        (with(json!({"scheduler": []})), 50204, "scheduler"),
        (with(json!({"i2i_keep_texture": 2})), 50204, "i2i_keep_texture"),
        (with(json!({"long_resolution": 255})), 50200, "long_resolution"),
        (with(json!({"long_resolution": 2049})), 50200, "from 256 to 2048"),
        (with(json!({"id_scale": 2})), 50200, "id_scale"),
        (with(json!({"id_weight": "x"})), 50204, "id_weight"),
        (with(json!({"lora_multipers": []})), 50204, "lora_multipers"),
        (with(json!({"lora_multipers": {"a": "0.4"}})), 50204, "lora_multipers.a"),
        (with(json!({"lora_multipers": {"a": 5}})), 50200, "lora_multipers.a"),
        (with(json!({"lora_map": {"a": {"strength_model": "x"}}})), 50204, "lora_map.a.strength_model"),
        (with(json!({"cn_mode": 1})), 50200, "cn_mode"),
        (with(json!({"tagger_settings": {"switch": true}})), 50200, "tagger_settings.switch"),
        (with(json!({"tagger_settings": 1})), 50204, "tagger_settings"),
        (with(json!({"return_url": "true"})), 50204, "return_url"),
        (with(json!({"logo_info": true})), 50204, "logo_info"),
        (with(json!({"logo_info": {"add_logo": "yes"}})), 50204, "logo_info.add_logo"),
        (with(json!({"logo_info": {"add_logo": true, "position": 4}})), 50200, "logo_info.position"),
        (with(json!({"logo_info": {"add_logo": true, "language": 2}})), 50200, "logo_info.language"),
        (with(json!({"logo_info": {"add_logo": true, "opacity": 1.1}})), 50200, "logo_info.opacity"),
        (
            with(json!({"logo_info": {"add_logo": true, "logo_text_content": "x".repeat(65)}})),
            50200,
            "logo_text_content",
        ),
        (
            with(json!({"logo_info": {"add_logo": true, "logo_text_content": "a\nb"}})),
            50200,
            "logo_text_content",
        ),
        (with(json!({"aigc_meta": {}})), 50201, "aigc_meta.producer_id"),
        (with(json!({"aigc_meta": {"producer_id": "x".repeat(257)}})), 50200, "producer_id"),
        (
            with(json!({"aigc_meta": {"producer_id": "x", "propagate_id": 1}})),
            50204,
            "aigc_meta.propagate_id",
        ),
    ];
    assert!(table.len() >= 50);
    for (body, code, text) in table {
        let shown: String = body.chars().filter(char::is_ascii_graphic).take(200).collect();
        let reply = received(&open(), &post(PROCESS, body)).expect_err(&shown);
        let told = json_of(&reply);
        let message = told["message"].as_str().expect("a message");
        assert_eq!((reply.status, told["code"].as_u64()), (400, Some(code)), "{shown}: {message}");
        assert!(message.contains(text) && message.len() < 400, "{shown}: {message}");
        assert_eq!((&told["status"], &told["data"]), (&told["code"], &Value::Null));
    }
}

#[test]
fn wrong_questions_for_tasks_have_their_codes() {
    let table = [
        (json!({"task_id": "1"}), 50201, "req_key"),
        (json!({"req_key": KEY}), 50201, "task_id"),
        (json!({"req_key": KEY, "task_id": ""}), 50201, "task_id"),
        (json!({"req_key": KEY, "task_id": -1}), 50204, "task_id"),
        (json!({"req_key": KEY, "task_id": ["1"]}), 50204, "task_id"),
        (json!({"req_key": "nosuch", "task_id": "1"}), 50200, "req_key not supported"),
        (json!({"req_key": KEY, "task_id": "1", "req_json": "{"}), 50204, "req_json"),
        (json!({"req_key": KEY, "task_id": "1", "req_json": "[]"}), 50204, "req_json"),
        (json!({"req_key": KEY, "task_id": "1", "req_json": 1}), 50204, "req_json"),
        // The vendor's own example, with its full-width punctuation.
        (
            json!({"req_key": KEY, "task_id": "1", "req_json": "{\"logo_info\":{\"add_logo\":true，\"position\":1}}"}),
            50204,
            "req_json",
        ),
        (
            json!({"req_key": KEY, "task_id": "1", "req_json": "{\"logo_info\":{\"position\":9}}"}),
            50200,
            "logo_info.position",
        ),
    ];
    for (body, code, text) in table {
        for action in ["CVSync2AsyncGetResult", "CVGetResult", "CVCancelTask"] {
            let target = format!("/?Action={action}&Version=2022-08-31");
            let told =
                json_of(&received(&open(), &post(&target, body.to_string())).expect_err("it is wrong"));
            assert_eq!(told["code"], code, "{body}");
            assert!(told["message"].as_str().is_some_and(|message| message.contains(text)), "{body}: {told}");
        }
    }
}

#[test]
fn the_gateway_knows_its_actions() {
    let table = [
        ("/", 400, "MissingParameter", "Action"),
        ("/?Version=2022-08-31", 400, "MissingParameter", "Action"),
        ("/?Action=CVProcess", 400, "MissingParameter", "Version"),
        (
            "/?Action=CVProcess&Version=2020-08-26",
            404,
            "InvalidActionOrVersion",
            "CVProcess for version 2020-08-26",
        ),
        ("/?Action=GetImage&Version=2022-08-31", 404, "InvalidActionOrVersion", "GetImage"),
        ("/?Action=AIGCStylizeImage&Version=2022-08-31", 404, "InvalidActionOrVersion", "AIGCStylizeImage"),
    ];
    for (target, status, code, text) in table {
        let reply = received(&open(), &post(target, body(&json!({})))).expect_err(target);
        let told = json_of(&reply);
        let error = &told["ResponseMetadata"]["Error"];
        assert_eq!((reply.status, error["Code"].as_str()), (status, Some(code)), "{target}");
        assert!(error["Message"].as_str().is_some_and(|message| message.contains(text)), "{error}");
        assert!(error["CodeN"].is_u64() && told.get("Result").is_none());
    }
}

#[test]
fn the_smallest_size_can_be_asked_for() {
    let mut config = config(Auth::Off);
    config.images.smallest = Some([600, 800]);
    let protocol = Volcengine::new(config);
    let ask = |width, height| {
        let photo = STANDARD.encode(file(width, height, Format::Png));
        received(&protocol, &post(PROCESS, body(&json!({"binary_data_base64": [photo]}))))
    };
    assert!(ask(600, 800).is_ok() && ask(800, 600).is_ok());
    for (width, height) in [(599, 800), (600, 799), (799, 600)] {
        let told = json_of(&ask(width, height).expect_err("too small"));
        assert_eq!(told["code"], 50205, "{width}x{height}");
    }
}

#[test]
fn what_was_not_read_is_refused_in_the_vendors_form() {
    let table = [
        (Refusal::BodyTooLarge, 400, 50213),
        (Refusal::BodyTooSlow, 408, 50204),
        (Refusal::Overloaded, 429, 50430),
        (Refusal::Internal, 500, 50500),
    ];
    for (refusal, status, code) in table {
        let reply = open().refuse(refusal, &super::context());
        assert_eq!((reply.status, json_of(&reply)["code"].as_u64()), (status, Some(code)), "{refusal:?}");
    }
    let reply = open().refuse(Refusal::ShuttingDown, &super::context());
    assert_eq!((reply.status, reply.error), (503, Some("ServiceUnavailableTemp")));
}
