use crate::fixtures::{base64_of, config, invoke, open, plain, png, size, understood};
use pentimento_imaging::Format;
use pentimento_protocols::{
    Delivery, Seed,
    bedrock::{Auth, Bedrock},
};
use pentimento_request::{Canvas, Channels, Prompt, Region, Sampler, Span, Strength, Task, Untouched};
use serde_json::json;

const RED: [u8; 3] = [200, 10, 10];

fn prompt(text: &str, weight: f32) -> Prompt {
    Prompt { text: text.into(), weight }
}

fn strength(share: f64) -> Strength {
    Strength::new(share).expect("a valid share")
}

fn repaint_values(task: &Task) -> &[u8] {
    let Task::Repaint { mask, .. } = task else { panic!("not a repaint: {task:?}") };
    mask.values()
}

fn span(task: &Task) -> Span {
    match task {
        Task::ImageToImage { span, .. } | Task::Repaint { span, .. } => *span,
        Task::TextToImage => panic!("no span"),
    }
}

#[test]
fn the_vendors_text_to_image_example() {
    let (request, seed) = understood(&json!({
        "text_prompts": [{"text": "A lighthouse on a cliff", "weight": 1.0}, {"text": "blurry", "weight": -1.0}],
        "height": 1024, "width": 1024, "cfg_scale": 7, "sampler": "K_DPMPP_2M", "samples": 1, "seed": 0,
        "steps": 30, "style_preset": "photographic"
    }));
    assert_eq!(request.model, "embedded");
    assert_eq!(
        request.prompts,
        [
            prompt("A lighthouse on a cliff, photograph, natural light, sharp focus", 1.0),
            prompt("blurry", -1.0)
        ]
    );
    assert_eq!(request.task, Task::TextToImage);
    assert_eq!(request.canvas, Canvas::Native(Some(size(1024, 1024))));
    assert_eq!((request.sampler, request.schedule), (Some(Sampler::KDpmpp2m), None));
    assert_eq!((request.steps.get(), request.guidance_scale.get()), (30, 7.0));
    assert_eq!(request.guidance_rescale, 0.5);
    assert_eq!(request.accelerations.guidance_interval.to_string(), "0.2:0.8");
    assert_eq!(seed, Seed::Drawn { max: 4_294_967_295 });
}

#[test]
fn the_least_body_takes_every_default() {
    let (request, seed) = understood(&json!({"text_prompts": [{"text": "cat"}]}));
    assert_eq!(request.prompts, [prompt("cat", 1.0)]);
    assert_eq!(request.canvas, Canvas::Native(Some(size(1024, 1024))));
    assert_eq!(request.sampler, None);
    assert_eq!((request.steps.get(), request.guidance_scale.get()), (30, 7.0));
    assert_eq!(seed, Seed::Drawn { max: 4_294_967_295 });
}

#[test]
fn the_vendors_image_to_image_example() {
    let (request, seed) = understood(&json!({
        "text_prompts": [{"text": "crayon drawing"}], "init_image": png(64, 32, &RED),
        "init_image_mode": "IMAGE_STRENGTH", "image_strength": 0.25, "cfg_scale": 7, "seed": 42, "steps": 30
    }));
    let Task::ImageToImage { init, span } = &request.task else { panic!("{:?}", request.task) };
    assert_eq!(**init, plain(64, 32, &RED));
    assert_eq!(*span, Span::of(strength(0.75)));
    assert_eq!(request.canvas, Canvas::Native(None));
    assert_eq!((request.seed, seed), (42, Seed::Given));
}

#[test]
fn the_vendors_step_schedule_example() {
    let (request, _) = understood(&json!({
        "text_prompts": [{"text": "crayon drawing"}], "init_image": png(64, 64, &RED),
        "init_image_mode": "STEP_SCHEDULE", "step_schedule_start": 0.65, "step_schedule_end": 0.01, "steps": 30
    }));
    assert_eq!(span(&request.task), Span { strength: strength(0.65), skipped_end: strength(0.01) });
}

#[test]
fn the_vendors_masking_example() {
    let (request, seed) = understood(&json!({
        "text_prompts": [{"text": "a red ball"}], "init_image": png(64, 64, &RED),
        "mask_source": "MASK_IMAGE_WHITE", "mask_image": png(64, 64, &[255, 255, 255]),
        "cfg_scale": 7, "steps": 30, "seed": 7
    }));
    let Task::Repaint { init, mask, span, region, untouched } = &request.task else {
        panic!("{:?}", request.task)
    };
    assert_eq!(**init, plain(64, 64, &RED));
    assert_eq!(mask.values(), [255; 64 * 64]);
    assert_eq!(*span, Span::of(Strength::FULL));
    assert_eq!((*region, *untouched), (Region::Surroundings { padding: 32 }, Untouched::Restored));
    assert_eq!(request.canvas, Canvas::Native(None));
    assert_eq!((request.seed, seed), (7, Seed::Given));
}

#[test]
fn each_mask_source_paints_its_own_part() {
    let body = |source: &str| {
        json!({
            "text_prompts": [{"text": "x"}], "init_image": png(8, 8, &[0, 0, 0, 55]),
            "mask_source": source, "mask_image": png(8, 8, &[100, 100, 100])
        })
    };
    for (source, value) in [("MASK_IMAGE_WHITE", 100), ("MASK_IMAGE_BLACK", 155), ("INIT_IMAGE_ALPHA", 200)] {
        let (request, _) = understood(&body(source));
        assert_eq!(repaint_values(&request.task), [value; 64], "{source}");
    }
    let (request, _) = understood(&json!({
        "text_prompts": [{"text": "x"}], "init_image": png(8, 8, &[0, 0, 0, 55]), "mask_source": "INIT_IMAGE_ALPHA"
    }));
    assert_eq!(request.task.init().expect("a picture").channels(), Channels::Rgba);
}

#[test]
fn jpeg_webp_line_breaks_and_data_urls_are_read() {
    let picture = plain(16, 16, &RED);
    let base64 = base64_of(&picture, Format::Png);
    let broken = base64.as_bytes().chunks(20).map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>();
    for text in [
        base64_of(&picture, Format::Jpeg),
        base64_of(&picture, Format::WebP),
        broken.join("\r\n"),
        format!("data:image/png;base64,{base64}"),
        base64.trim_end_matches('=').to_owned(),
    ] {
        let (request, _) = understood(&json!({"text_prompts": [{"text": "x"}], "init_image": text}));
        assert_eq!(request.task.init().map(|init| init.size()), Some(size(16, 16)));
    }
}

#[test]
fn every_sampler_and_every_style_is_read() {
    for sampler in Sampler::of_stability() {
        let (request, _) = understood(&json!({"text_prompts": [{"text": "x"}], "sampler": sampler.name()}));
        assert_eq!(request.sampler, Some(sampler));
    }
    let styles = "3d-model analog-film anime cinematic comic-book digital-art enhance fantasy-art isometric \
                  line-art low-poly modeling-compound neon-punk origami photographic pixel-art tile-texture";
    for style in styles.split_whitespace() {
        let (request, _) = understood(&json!({"text_prompts": [{"text": "x"}], "style_preset": style}));
        assert!(request.prompts[0].text.starts_with("x, "), "{style}");
    }
    for preset in ["FAST_BLUE", "FAST_GREEN", "NONE", "SIMPLE", "SLOW", "SLOWER", "SLOWEST", "SIMPLE SLOW"] {
        let (request, _) =
            understood(&json!({"text_prompts": [{"text": "x"}], "clip_guidance_preset": preset}));
        assert_eq!(request.conditioning.clip_guidance, preset.parse().ok(), "{preset}");
    }
}

// What public clients of the service really send.

#[test]
fn genu_sends_an_empty_style_and_sizes_beside_its_pictures() {
    let (request, _) = understood(&json!({
        "text_prompts": [{"text": "x", "weight": 1}, {"text": "y", "weight": -1}], "cfg_scale": 7, "seed": 0,
        "steps": 50, "style_preset": "", "width": 1280, "height": 768, "image_strength": 0,
        "init_image": png(24, 24, &RED), "mask_source": "MASK_IMAGE_BLACK", "mask_image": png(24, 24, &[0, 0, 0])
    }));
    assert_eq!(request.prompts, [prompt("x", 1.0), prompt("y", -1.0)]);
    assert_eq!(repaint_values(&request.task), [255; 24 * 24]);
    assert_eq!(span(&request.task), Span::of(Strength::FULL));
    assert_eq!(request.canvas, Canvas::Native(None));
}

#[test]
fn masking_honours_an_image_strength() {
    let (request, _) = understood(&json!({
        "text_prompts": [{"text": "x"}], "init_image": png(8, 8, &RED), "mask_source": "MASK_IMAGE_BLACK",
        "mask_image": png(8, 8, &[0, 0, 0]), "init_image_mode": "IMAGE_STRENGTH", "image_strength": 0.75,
        "sampler": "K_DPM_2_ANCESTRAL", "clip_guidance_preset": "FAST_BLUE"
    }));
    assert_eq!(span(&request.task), Span::of(strength(0.25)));
}

#[test]
fn image_to_image_keeps_a_third_unless_told() {
    let (request, _) = understood(&json!({"text_prompts": [{"text": "x"}], "init_image": png(8, 8, &RED)}));
    assert_eq!(span(&request.task), Span::of(strength(0.65)));
}

#[test]
fn unknown_keys_extras_and_members_of_other_modes_have_no_effect() {
    let (plain, _) = understood(&json!({"text_prompts": [{"text": "x"}]}));
    let (busy, _) = understood(&json!({
        "text_prompts": [{"text": "x", "colour": 1}], "strength": 3, "start_schedule": "no",
        "extras": {"$IPC": {"preset": "x"}}, "image_strength": 1, "step_schedule_start": 0.5,
        "init_image_mode": "STEP_SCHEDULE"
    }));
    assert_eq!(plain, busy);
}

#[test]
fn whole_numbers_may_be_decimals_and_weights_anything() {
    let (request, seed) = understood(&json!({
        "text_prompts": [{"text": "a", "weight": 100}, {"text": "b", "weight": -5}, {"text": "", "weight": 0}],
        "width": 1024.0, "height": 512.0, "steps": 10.0, "seed": 4_294_967_295_u32, "samples": 1.0, "cfg_scale": 35
    }));
    assert_eq!(request.prompts.iter().map(|prompt| prompt.weight).collect::<Vec<_>>(), [100.0, -5.0, 0.0]);
    assert_eq!(request.canvas, Canvas::Native(Some(size(1024, 512))));
    assert_eq!((request.steps.get(), request.guidance_scale.get()), (10, 35.0));
    assert_eq!((request.seed, seed), (4_294_967_295, Seed::Given));
}

#[test]
fn sizes_are_loose_or_the_nine() {
    let strict = Bedrock::new(pentimento_protocols::bedrock::BedrockConfig {
        strict_sizes: true,
        ..config(Auth::Off)
    });
    let body =
        |width: u32, height: u32| json!({"text_prompts": [{"text": "x"}], "width": width, "height": height});
    for (width, height) in [(512, 512), (1280, 768), (1024, 512), (768, 768), (8192, 128)] {
        assert!(invoke(&open(), &body(width, height)).is_ok(), "{width}x{height}");
        assert!(invoke(&strict, &body(width, height)).is_err(), "{width}x{height}");
    }
    for (width, height) in [
        (1024, 1024),
        (1152, 896),
        (1216, 832),
        (1344, 768),
        (1536, 640),
        (640, 1536),
        (768, 1344),
        (832, 1216),
        (896, 1152),
    ] {
        assert!(invoke(&open(), &body(width, height)).is_ok(), "{width}x{height}");
        assert!(invoke(&strict, &body(width, height)).is_ok(), "{width}x{height}");
    }
}

#[test]
fn one_side_alone_takes_the_others_default() {
    let (request, _) = understood(&json!({"text_prompts": [{"text": "x"}], "width": 512}));
    assert_eq!(request.canvas, Canvas::Native(Some(size(512, 1024))));
}

#[test]
fn a_call_carries_the_servers_name_of_it() {
    let call = invoke(&open(), &json!({"text_prompts": [{"text": "x"}]})).expect("a good request");
    assert_eq!(call.request_id, crate::fixtures::REQUEST_ID);
    assert_eq!(call.delivery, Delivery::Json);
    assert!(!call.may_retry);
}
