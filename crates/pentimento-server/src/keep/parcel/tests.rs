//! Every field of a request goes into a parcel and comes back.

use super::*;
use pentimento_request::{
    Accelerations, CannyThresholds, ClipGuidance, Conditioning, Control, ControlNetwork, Faces,
    GuidanceInterval, Hint, Identity, ImagePrompt, Lora, StepCache, Texture, TokenMerging,
};

fn picture(side: u32, channels: Channels) -> Arc<Picture> {
    let size = Size::new(side, side).expect("a size");
    let count = size.pixels() as usize * channels.count();
    let pixels = (0..count).map(|index| (index * 7 % 256) as u8).collect();
    Arc::new(Picture::new(size, channels, pixels).expect("as many bytes"))
}

/// A request in which no field has its usual value.
fn full() -> GenerationRequest {
    let share = |value| Strength::new(value).expect("a share");
    let size = Size::new(9, 7).expect("a size");
    let mask = Mask::new(Size::new(5, 5).expect("a size"), (0..25).collect()).expect("as many");
    let span = Span { strength: share(0.1 + 0.2), skipped_end: share(1.0 / 3.0) };
    GenerationRequest {
        model: "a model".to_owned(),
        prompts: vec![Prompt { text: "((天使)) \"x\"\n".to_owned(), weight: -0.1 }],
        syntax: PromptSyntax::Plain,
        clip_skip: ClipSkip::new(2).expect("a layer"),
        task: Task::Repaint {
            init: picture(5, Channels::Rgba),
            mask: Arc::new(mask),
            span,
            region: Region::Surroundings { padding: 3 },
            untouched: Untouched::AsDecoded,
        },
        canvas: Canvas::Exact(Some(size)),
        hires: Some(Hires { scale: 1.7, strength: share(0.4), steps: Steps::new(3).ok() }),
        sampler: Some(Sampler::KHeun),
        schedule: Some(Schedule::Trailing),
        solver: SolverOptions {
            eta: Some(0.3),
            s_churn: 0.1,
            s_tmin: 1e-300,
            s_tmax: f64::INFINITY,
            s_noise: 1.003,
        },
        steps: Steps::new(17).expect("steps"),
        guidance_scale: GuidanceScale::new(7.3).expect("a scale"),
        guidance_rescale: 0.7,
        accelerations: Accelerations {
            step_cache: StepCache::new(4, 2).ok(),
            token_merging: TokenMerging::new(0.1 + 0.2).expect("a share"),

            guidance_interval: GuidanceInterval::new(0.1, 0.9).expect("an interval"),
        },
        seed: u64::MAX,
        noise: NoiseSource::Philox,
        conditioning: Conditioning {
            loras: vec![Lora { name: "l".to_owned(), weight: 0.4, text_weight: Some(-0.2) }],
            controls: vec![
                Control {
                    network: ControlNetwork::Canny,
                    hint: Hint::Edges(CannyThresholds::new(1.5, 2.5).expect("in order")),
                    weight: 0.8,
                    start: share(0.1),
                    end: share(0.9),
                },
                Control {
                    network: ControlNetwork::Named("n".to_owned()),
                    hint: Hint::Picture(picture(3, Channels::Rgb)),
                    weight: 0.1,
                    start: share(0.0),
                    end: share(1.0),
                },
            ],
            texture: Texture::Smoothed,
            image_prompts: vec![ImagePrompt {
                adapter: "a".to_owned(),
                pictures: vec![picture(2, Channels::Rgb)],
                scale: 0.6,
            }],
            identity: Some(Identity {
                adapter: Some("faceid".to_owned()),
                faces: Faces::Of(vec![picture(4, Channels::Rgb)]),
                scale: 0.5,
            }),
            clip_guidance: Some(ClipGuidance::Slower),
            left_out: vec!["x: left out".to_owned()],
        },
        filter: Some(FilterMode::Block),
    }
}

#[test]
fn every_field_comes_back() {
    let requests = [
        full(),
        GenerationRequest {
            task: Task::ImageToImage { init: picture(6, Channels::Rgb), span: Span::of(Strength::FULL) },
            canvas: Canvas::Native(None),
            hires: None,
            sampler: None,
            schedule: None,
            solver: SolverOptions::USUAL,
            syntax: PromptSyntax::Emphasis,
            noise: NoiseSource::TorchCpu,
            conditioning: Conditioning {
                identity: Some(Identity { adapter: None, faces: Faces::OfInput, scale: 1.0 }),
                ..Conditioning::none()
            },
            ..full()
        },
        GenerationRequest { task: Task::TextToImage, conditioning: Conditioning::none(), ..full() },
    ];
    for request in requests {
        assert_eq!(unpack(&pack(&request).expect("it is packed")), Ok(request));
    }
}

#[test]
fn damaged_parcels_are_refused_and_never_panic() {
    let whole = pack(&full()).expect("it is packed");
    for length in 0..whole.len() {
        assert!(unpack(&whole[..length]).is_err(), "{length}");
    }
    for index in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[index] ^= 0x55;
        let _ = unpack(&damaged);
    }
    let mut later = whole;
    later[4] = VERSION + 1;
    assert!(unpack(&later).expect_err("another version").contains("version 2"));
}
