use crate::fixtures::{self, INVOKE, STREAM, config, context, expect_error, guarded, open, post};
use pentimento_protocols::{
    Call, Context, Delivery, HttpRequest, ModelProfile, Operation, Protocol, Reply,
    bedrock::{Auth, Bedrock, BedrockConfig, FallbackIds, ModelMap},
};

const BODY: &str = r#"{"text_prompts":[{"text":"cat"}]}"#;
const FIXED: &str = r#"{"text_prompts":[{"text":"cat"}],"seed":7}"#;

fn receive(request: &HttpRequest) -> Result<Call, Reply> {
    fixtures::receive(&open(), request)
}

fn model_of(call: Call) -> String {
    let Operation::Generate { request, .. } = call.operation else { panic!("another operation") };
    request.model
}

#[test]
fn everything_below_model_is_claimed() {
    for target in [INVOKE, STREAM, "/model/", "/model/x", "/model/x/converse?a=1", "/model//"] {
        assert!(open().claims("POST", target) && open().claims("GET", target), "{target}");
    }
    for target in ["/", "/model", "/models/x/invoke", "/healthz", "//model/x/invoke", "model/x/invoke", ""] {
        assert!(!open().claims("POST", target), "{target}");
    }
}

#[test]
fn every_way_in_which_clients_write_the_id_is_understood() {
    for segment in [
        "stability.stable-diffusion-xl-v1",
        "stability.stable-diffusion-xl-v1%3A0",
        "stability.stable-diffusion-xl-v1:0",
        "us.stability.stable-diffusion-xl-v1%3a0",
        "stability.stable-diffusion-xl",
        "stability.stable-diffusion-xl-v0",
        "arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fstability.stable-diffusion-xl-v1%3A0",
        "arn:aws:bedrock:eu-west-1:123456789012:inference-profile%2Feu.stability.stable-diffusion-xl-v1:0",
    ] {
        for operation in ["invoke", "invoke-with-response-stream", "invoke?x=y"] {
            let call = receive(&post(&format!("/model/{segment}/{operation}"), &[], BODY));
            assert_eq!(call.map(model_of).ok().as_deref(), Some("embedded"), "{segment}/{operation}");
        }
    }
}

#[test]
fn other_paths_and_methods_are_unknown_operations() {
    let mut get = post(INVOKE, &[], BODY);
    get.method = "GET".into();
    let reply = receive(&get).expect_err("not a POST");
    expect_error(&reply, 404, "UnknownOperationException");
    for target in [
        "/model/x",
        "/model/x/",
        "/model//invoke",
        "/model/x/converse",
        "/model/x/invoke/",
        "/model/arn:aws:bedrock:us-east-1::foundation-model/stability.stable-diffusion-xl-v1/invoke",
    ] {
        let reply = receive(&post(target, &[], BODY)).expect_err(target);
        expect_error(&reply, 404, "UnknownOperationException");
    }
    let reply = guarded().receive(&post("/model/x/converse", &[], BODY), &context()).expect_err("unknown");
    assert_eq!(reply.status, 404, "also for strangers");
}

#[test]
fn ids_without_a_model_are_invalid() {
    for id in ["stability.sd3-large-v1%3A0", "anthropic.claude-v2", "stability.stable-diffusion-xl-v2", "x"] {
        let reply = receive(&post(&format!("/model/{id}/invoke"), &[], BODY)).expect_err(id);
        assert_eq!(
            expect_error(&reply, 400, "ValidationException"),
            "The provided model identifier is invalid."
        );
    }
}

#[test]
fn ids_that_break_the_pattern_say_so() {
    for (segment, value) in
        [("a%20b", "a b"), ("%zz", "%zz"), ("a%", "a%"), ("%ff%fe", "%ff%fe"), ("a%00", "a\0"), ("é", "é")]
    {
        let reply = receive(&post(&format!("/model/{segment}/invoke"), &[], BODY)).expect_err(segment);
        let text = expect_error(&reply, 400, "ValidationException");
        let start = format!(
            "1 validation error detected: Value '{value}' at 'modelId' failed to satisfy constraint: Member must \
             satisfy regular expression pattern: (arn:aws"
        );
        assert!(text.starts_with(&start), "{text}");
    }
    let long = format!("/model/{}/invoke", "a".repeat(3000));
    let text =
        expect_error(&receive(&post(&long, &[], BODY)).expect_err("too long"), 400, "ValidationException");
    assert!(text.ends_with("Member must have length less than or equal to 2048"), "{text}");
}

#[test]
fn a_mapped_id_is_answered_by_its_model() {
    let profile = |name: &str| ModelProfile::named(name);
    let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abcdef";
    let models = ModelMap::new(profile("embedded"), FallbackIds::Stability).map(arn, profile("mine"));
    let protocol = Bedrock::new(BedrockConfig { models, ..config(Auth::Off) });
    let target = "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabcdef/invoke";
    let call = protocol.receive(&post(target, &[], BODY), &context()).expect("a mapped id");
    assert_eq!(model_of(fixtures::ready(call)), "mine");
}

#[test]
fn media_types_are_negotiated() {
    let delivery = |target: &str, headers: &[(&str, &str)]| {
        receive(&post(target, headers, BODY)).map(|call| call.delivery).map_err(|reply| reply.status)
    };
    assert_eq!(delivery(INVOKE, &[]), Ok(Delivery::Json));
    assert_eq!(delivery(INVOKE, &[("content-type", "application/octet-stream")]), Ok(Delivery::Json));
    assert_eq!(delivery(INVOKE, &[("accept", "image/png")]), Ok(Delivery::Picture));
    assert_eq!(delivery(STREAM, &[("accept", "*/*")]), Ok(Delivery::Events));
    assert_eq!(delivery(STREAM, &[("x-amzn-bedrock-accept", "image/png")]), Ok(Delivery::PictureEvents));
    assert_eq!(delivery(INVOKE, &[("accept", "text/html")]), Err(400));
    let reply = receive(&post(INVOKE, &[("content-type", "text/plain")], BODY)).expect_err("no JSON");
    assert_eq!(
        expect_error(&reply, 400, "ValidationException"),
        "The provided Content Type is invalid or not supported for this model"
    );
}

#[test]
fn headers_about_what_we_do_not_have_are_ignored() {
    let headers = [
        ("x-amzn-bedrock-trace", "ENABLED"),
        ("x-amzn-bedrock-guardrailidentifier", "g"),
        ("x-amzn-bedrock-guardrailversion", "1"),
        ("x-amz-bedrock-guardrail-identifier", "g"),
        ("x-amzn-bedrock-performanceconfig-latency", "optimized"),
        ("x-amzn-bedrock-service-tier", "flex"),
        ("x-amzn-bedrock-request-metadata", "{}"),
        ("x-unknown", "y"),
    ];
    assert!(receive(&post(INVOKE, &headers, BODY)).is_ok());
}

fn key(protocol: &Bedrock, target: &str, headers: &[(&str, &str)], body: &str) -> Option<String> {
    let request = post(target, headers, body.to_owned());
    let another = Context { request_id: "another".into(), ..context() };
    fixtures::ready(protocol.receive(&request, &another).expect("good")).same_work
}

#[test]
fn a_fixed_seed_makes_equal_requests_the_same_work() {
    let first = key(&open(), INVOKE, &[], FIXED);
    assert!(first.is_some());
    assert_eq!(first, key(&open(), INVOKE, &[("amz-sdk-invocation-id", "a")], FIXED));
    assert_ne!(first, key(&open(), INVOKE, &[], &FIXED.replace('7', "8")));
    assert_ne!(first, key(&open(), STREAM, &[], FIXED));
}

#[test]
fn a_drawn_seed_is_the_same_work_only_within_an_invocation() {
    let with = |id: &str, body: &str| key(&open(), INVOKE, &[("amz-sdk-invocation-id", id)], body);
    assert_eq!(key(&open(), INVOKE, &[], BODY), None);
    assert!(with("a", BODY).is_some());
    assert_eq!(with("a", BODY), with("a", BODY));
    assert_ne!(with("a", BODY), with("b", BODY));
    assert_ne!(with("a", BODY), with("a", &BODY.replace("cat", "dog")));
    assert_eq!(with(&"a".repeat(129), BODY), None);
    assert_eq!(with("", BODY), None);
}

#[test]
fn callers_never_share_work() {
    let by = |bearer: &str| key(&guarded(), INVOKE, &[("authorization", bearer)], FIXED);
    assert_eq!(by("Bearer first-key"), by("Bearer first-key"));
    assert_ne!(by("Bearer first-key"), by("Bearer second-key"));
    assert_ne!(by("Bearer first-key"), key(&open(), INVOKE, &[], FIXED));
}

#[test]
fn a_coming_retry_is_known_by_the_clients_count() {
    let retries = |value: &str| {
        receive(&post(INVOKE, &[("amz-sdk-request", value)], BODY)).map(|call| call.may_retry).expect("good")
    };
    assert!(retries("attempt=1; max=3") && retries("attempt=2; max=3"));
    assert!(!retries("attempt=3; max=3") && !retries("nonsense"));
}
