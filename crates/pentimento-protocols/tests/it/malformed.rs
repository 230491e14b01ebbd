use crate::fixtures::{INVOKE, config, context, expect_error, invoke, open, png, post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pentimento_protocols::{
    Protocol,
    bedrock::{Auth, Bedrock, BedrockConfig},
};
use serde_json::{Value, json};

const MALFORMED: &str = "Malformed input request, please reformat your input and try again.";

/// A good body with these members added or replaced.
fn with(members: Value) -> Value {
    let mut body = json!({"text_prompts": [{"text": "x"}]});
    let (Some(body_members), Value::Object(members)) = (body.as_object_mut(), members) else {
        panic!("not an object")
    };
    body_members.extend(members);
    body
}

fn refusal(protocol: &Bedrock, body: &Value) -> String {
    let reply = invoke(protocol, body).expect_err("a bad body");
    expect_error(&reply, 400, "ValidationException")
}

#[test]
fn what_is_no_json_object_is_malformed() {
    let texts: [&[u8]; 18] = [
        b"",
        b" ",
        b"null",
        b"[]",
        b"\"text\"",
        b"7",
        b"{",
        b"{}}",
        b"{\"text_prompts\": [{\"text\": \"x\"}]",
        b"{'text_prompts': []}",
        b"{\"text_prompts\": [{\"text\": \"x\", \"weight\": NaN}]}",
        b"{\"text_prompts\": [{\"text\": \"x\", \"weight\": Infinity}]}",
        b"{\"text_prompts\": [{\"text\": \"x\"}], \"seed\": 1e999}",
        b"{\"text_prompts\": [{\"text\": \"x\"}], \"seed\": 01}",
        b"{\"seed\": 1, \"seed\": 2, \"text_prompts\": [{\"text\": \"x\"}]}",
        b"{\"text_prompts\": [{\"text\": \"\xff\"}]}",
        b"{\"text_prompts\": [{\"text\": \"\\ud800\"}]}",
        b"\xef\xbb\xbf{\"text_prompts\": [{\"text\": \"x\"}]}",
    ];
    for text in texts {
        let reply = open().receive(&post(INVOKE, &[], text), &context()).expect_err("malformed");
        assert_eq!(expect_error(&reply, 400, "ValidationException"), MALFORMED, "{}", text.escape_ascii());
    }
}

#[test]
fn deep_and_wide_bodies_are_malformed_and_not_fatal() {
    let deep = format!("{{\"extras\":{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let wide = format!("{{\"extras\":[{}0]}}", "[],".repeat(1_000_000));
    let keys = (0..100_000).map(|index| format!("\"k{index}\":0")).collect::<Vec<_>>().join(",");
    for text in [deep, wide, format!("{{{keys}}}")] {
        let reply = open().receive(&post(INVOKE, &[], text), &context()).expect_err("malformed");
        assert_eq!(expect_error(&reply, 400, "ValidationException"), MALFORMED);
    }
}

#[test]
fn each_violation_has_the_validators_words() {
    let table = [
        (json!({}), "#: required key [text_prompts] not found"),
        (json!({"text_prompt": [{"text": "x"}]}), "#: required key [text_prompts] not found"),
        (with(json!({"text_prompts": []})), "#/text_prompts: expected minimum item count: 1, found: 0"),
        (
            with(json!({"text_prompts": vec![json!({"text": "x"}); 65]})),
            "#/text_prompts: expected maximum item count: 64, found: 65",
        ),
        (with(json!({"text_prompts": "x"})), "#/text_prompts: expected type: JSONArray, found: String"),
        (
            with(json!({"text_prompts": {"text": "x"}})),
            "#/text_prompts: expected type: JSONArray, found: JSONObject",
        ),
        (with(json!({"text_prompts": null})), "#/text_prompts: expected type: JSONArray, found: Null"),
        (with(json!({"text_prompts": ["x"]})), "#/text_prompts/0: expected type: JSONObject, found: String"),
        (with(json!({"text_prompts": [{}]})), "#/text_prompts/0: required key [text] not found"),
        (
            with(json!({"text_prompts": [{"text": "x"}, {"text": 5}]})),
            "#/text_prompts/1/text: expected type: String, found: Integer",
        ),
        (
            with(json!({"text_prompts": [{"text": null}]})),
            "#/text_prompts/0/text: expected type: String, found: Null",
        ),
        (
            with(json!({"text_prompts": [{"text": "é".repeat(2001)}]})),
            "#/text_prompts/0/text: expected maxLength: 2000, actual: 2001",
        ),
        (
            with(json!({"text_prompts": [{"text": "x", "weight": "1"}]})),
            "#/text_prompts/0/weight: expected type: Number, found: String",
        ),
        (
            with(json!({"text_prompts": [{"text": "x", "weight": null}]})),
            "#/text_prompts/0/weight: expected type: Number, found: Null",
        ),
        (
            with(json!({"text_prompts": [{"text": "x", "weight": 1e300}]})),
            "#/text_prompts/0/weight: 1e+300 is not less or equal to 340282346638528860000000000000000000000",
        ),
        (with(json!({"width": 500, "height": 512})), "#/width: 500 is not a multiple of 64"),
        (
            with(json!({"width": 100})),
            "#/width: 100 is not greater or equal to 128, #/width: 100 is not a multiple of 64",
        ),
        (with(json!({"width": 512, "height": 0})), "#/height: 0 is not greater or equal to 128"),
        (with(json!({"width": -64})), "#/width: -64 is not greater or equal to 128"),
        (with(json!({"width": 1_000_000})), "#/width: 1000000 is not less or equal to 8192"),
        (with(json!({"width": "512"})), "#/width: expected type: Integer, found: String"),
        (with(json!({"width": 512.5})), "#/width: expected type: Integer, found: BigDecimal"),
        (with(json!({"width": null})), "#/width: expected type: Integer, found: Null"),
        (with(json!({"steps": 9})), "#/steps: 9 is not greater or equal to 10"),
        (with(json!({"steps": 51})), "#/steps: 51 is not less or equal to 50"),
        (with(json!({"steps": "30"})), "#/steps: expected type: Integer, found: String"),
        (with(json!({"steps": 30.5})), "#/steps: expected type: Integer, found: BigDecimal"),
        (with(json!({"cfg_scale": -0.5})), "#/cfg_scale: -0.5 is not greater or equal to 0"),
        (with(json!({"cfg_scale": 35.5})), "#/cfg_scale: 35.5 is not less or equal to 35"),
        (with(json!({"cfg_scale": true})), "#/cfg_scale: expected type: Number, found: Boolean"),
        (with(json!({"cfg_scale": []})), "#/cfg_scale: expected type: Number, found: JSONArray"),
        (with(json!({"seed": -1})), "#/seed: -1 is not greater or equal to 0"),
        (with(json!({"seed": 4_294_967_296_u64})), "#/seed: 4294967296 is not less or equal to 4294967295"),
        (with(json!({"seed": u64::MAX})), "#/seed: 18446744073709551615 is not less or equal to 4294967295"),
        (with(json!({"seed": "7"})), "#/seed: expected type: Integer, found: String"),
        (with(json!({"seed": null})), "#/seed: expected type: Integer, found: Null"),
        (with(json!({"samples": 0})), "#/samples: 0 is not greater or equal to 1"),
        (with(json!({"samples": 2})), "#/samples: 2 is not less or equal to 1"),
        (with(json!({"sampler": "K_FOO"})), "#/sampler: K_FOO is not a valid enum value"),
        (with(json!({"sampler": "k_euler"})), "#/sampler: k_euler is not a valid enum value"),
        (with(json!({"sampler": "K_HEUN K_LMS"})), "#/sampler: K_HEUN K_LMS is not a valid enum value"),
        (with(json!({"sampler": "K_DPMPP_SDE"})), "#/sampler: K_DPMPP_SDE is not a valid enum value"),
        (with(json!({"sampler": ""})), "#/sampler:  is not a valid enum value"),
        (with(json!({"sampler": null})), "#/sampler: expected type: String, found: Null"),
        (with(json!({"style_preset": "baroque"})), "#/style_preset: baroque is not a valid enum value"),
        (with(json!({"style_preset": null})), "#/style_preset: expected type: String, found: Null"),
        (
            with(json!({"clip_guidance_preset": "FAST"})),
            "#/clip_guidance_preset: FAST is not a valid enum value",
        ),
        (with(json!({"extras": "x"})), "#/extras: expected type: JSONObject, found: String"),
        (with(json!({"init_image": 7})), "#/init_image: expected type: String, found: Integer"),
        (with(json!({"init_image": null})), "#/init_image: expected type: String, found: Null"),
        (with(json!({"init_image": "x", "width": "wide"})), "#/width: expected type: Integer, found: String"),
        (with(json!({"init_image_mode": "BOTH"})), "#/init_image_mode: BOTH is not a valid enum value"),
        (with(json!({"image_strength": 1.01})), "#/image_strength: 1.01 is not less or equal to 1"),
        (with(json!({"image_strength": "0.3"})), "#/image_strength: expected type: Number, found: String"),
        (with(json!({"step_schedule_start": -1})), "#/step_schedule_start: -1 is not greater or equal to 0"),
        (with(json!({"step_schedule_end": 2})), "#/step_schedule_end: 2 is not less or equal to 1"),
        (with(json!({"mask_source": "MASK_IMAGE_WHITE"})), "#: required key [init_image] not found"),
        (with(json!({"mask_image": "x", "init_image": "x"})), "#: required key [mask_source] not found"),
        (
            with(json!({"mask_source": "MASK", "init_image": "x"})),
            "#/mask_source: MASK is not a valid enum value",
        ),
        (
            with(json!({"mask_source": 1, "init_image": "x"})),
            "#/mask_source: expected type: String, found: Integer",
        ),
    ];
    for (body, violation) in table {
        let expected =
            format!("Malformed input request: {violation}, please reformat your input and try again.");
        assert_eq!(refusal(&open(), &body), expected);
    }
}

#[test]
fn several_violations_are_told_at_once() {
    let body = json!({"steps": 5, "mask_image": "x", "sampler": "K_FOO", "seed": null});
    assert_eq!(
        refusal(&open(), &body),
        "Malformed input request: #: required key [text_prompts] not found, #: required key [init_image] not found, \
         #: required key [mask_source] not found, #/sampler: K_FOO is not a valid enum value, #/seed: expected type: \
         Integer, found: Null, #/steps: 5 is not greater or equal to 10, please reformat your input and try again."
    );
}

#[test]
fn unknown_keys_can_be_refused() {
    let strict = Bedrock::new(BedrockConfig { strict_keys: true, ..config(Auth::Off) });
    assert!(invoke(&strict, &with(json!({"seed": 1}))).is_ok());
    assert_eq!(
        refusal(&strict, &with(json!({"stream": true, "steps": 1}))),
        "Malformed input request: #: extraneous key [stream] is not permitted, #/steps: 1 is not greater or equal to \
         10, please reformat your input and try again."
    );
    let misspelt =
        with(json!({"text_prompts": [{"text": "x"}, {"text": "x", "wieght": -1}], "extras": {"a": 1}}));
    assert!(invoke(&open(), &misspelt).is_ok());
    assert_eq!(
        refusal(&strict, &misspelt),
        "Malformed input request: #/text_prompts/1: extraneous key [wieght] is not permitted, please reformat your \
         input and try again."
    );
}

/// The header of a PNG that claims this size and holds nothing.
fn png_header(width: u32, height: u32) -> String {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(&header);
    file.extend(crc32fast::hash(&header).to_be_bytes());
    STANDARD.encode(file)
}

#[test]
fn each_bad_picture_has_the_containers_name_for_it() {
    let good = png(64, 64, &[1, 2, 3]);
    let masked = |mask: Value| {
        let mut body = with(json!({"init_image": good, "mask_source": "MASK_IMAGE_WHITE"}));
        body.as_object_mut().expect("an object").extend(mask.as_object().expect("an object").clone());
        body
    };
    let cut = STANDARD.encode(&STANDARD.decode(&good).expect("our own base64")[..60]);
    let table = [
        (with(json!({"init_image": ""})), "invalid_base64", "init_image: is empty"),
        (with(json!({"init_image": "?"})), "invalid_base64", "init_image: is not valid base64"),
        (with(json!({"init_image": &good[..good.len() - 7]})), "", "init_image: "),
        (with(json!({"init_image": "aGVsbG8="})), "invalid_mime_type", "init_image: the bytes are no PNG"),
        (with(json!({"init_image": cut})), "bad_request", "init_image: "),
        (with(json!({"init_image": png_header(20_000, 20_000)})), "invalid_pixel_count", "init_image: "),
        (with(json!({"init_image": "A".repeat(7_000_000)})), "invalid_file_size", "5000000"),
        (masked(json!({})), "invalid_mask_image", "mask_image: is required"),
        (masked(json!({"mask_image": "?"})), "invalid_base64", "mask_image: is not valid base64"),
        (masked(json!({"mask_image": "aGVsbG8="})), "invalid_mime_type", "mask_image: the bytes are no PNG"),
        (
            masked(json!({"mask_image": png(64, 32, &[0, 0, 0])})),
            "invalid_image_dimensions",
            "init_image and mask_image must have the same size, but they have 64x64 and 64x32",
        ),
        (masked(json!({"mask_source": "INIT_IMAGE_ALPHA"})), "invalid_mask_image", "the picture has none"),
        (
            with(json!({"init_image": good, "init_image_mode": "STEP_SCHEDULE", "step_schedule_start": 0.2,
                "step_schedule_end": 0.4})),
            "bad_request",
            "step_schedule_end (0.4) must be less than step_schedule_start (0.2)",
        ),
        (with(json!({"width": 256, "height": 256})), "invalid_pixel_count", "256x256 has 65536"),
        (
            with(json!({"width": 2048, "height": 1024})),
            "invalid_pixel_count",
            "from 262144 to 1048576 pixels",
        ),
    ];
    for (body, name, part) in table {
        let text = refusal(&open(), &body);
        let form = "\nsagemaker_inference.errors.BaseInferenceToolkitError: (400, '";
        assert!(text.starts_with(name) && text.contains(form) && text.ends_with(')'), "{text}");
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_nine_sizes_can_be_insisted_on() {
    let strict = Bedrock::new(BedrockConfig { strict_sizes: true, ..config(Auth::Off) });
    let dimensions = "for stable-diffusion-xl-1024-v0-9 and stable-diffusion-xl-1024-v1-0 the allowed dimensions are \
                      1024x1024, 1152x896, 1216x832, 1344x768, 1536x640, 640x1536, 768x1344, 832x1216, 896x1152, but \
                      we received ";
    for (body, received) in [
        (with(json!({"width": 512, "height": 512})), "512x512"),
        (with(json!({"init_image": png(450, 672, &[0, 0, 0])})), "450x672"),
    ] {
        assert_eq!(
            refusal(&strict, &body),
            format!(
                "invalid_sdxl_v1_dimensions\nsagemaker_inference.errors.BaseInferenceToolkitError: (400, \
                 'invalid_sdxl_v1_dimensions', '{dimensions}{received}')"
            )
        );
    }
}

/// Every cut, and thousands of single-byte changes, of a good body: an answer each time, never a panic.
#[test]
fn damaged_bodies_are_answered() {
    let body = with(json!({
        "init_image": png(8, 8, &[9, 9, 9]), "mask_source": "MASK_IMAGE_BLACK", "mask_image": png(8, 8, &[0, 0, 0]),
        "seed": 7, "steps": 30, "sampler": "DDIM", "extras": {"a": [1, 2]}
    }));
    let body = body.to_string().into_bytes();
    let protocol = open();
    for end in 0..body.len() {
        let reply =
            protocol.receive(&post(INVOKE, &[], body[..end].to_vec()), &context()).expect_err("it is cut");
        assert_eq!(reply.status, 400);
    }
    for index in 0..body.len() {
        for change in [1, 0x20, 0x80] {
            let mut damaged = body.clone();
            damaged[index] ^= change;
            if let Err(reply) = protocol.receive(&post(INVOKE, &[], damaged), &context()) {
                assert_eq!(reply.status, 400);
            }
        }
    }
}
