//! What `serve` prints when it listens: where, and, with a pair made for this run, how to ask it.

use crate::{config::AccessKey, credentials::Credentials};
use std::net::SocketAddr;

/// The text for standard output. Its first line is `listening on URL`, for programs that start a server.
pub(super) fn text(address: SocketAddr, secure: bool, credentials: &Credentials) -> String {
    let scheme = if secure { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    let first = format!("listening on {url}\n");
    match credentials {
        Credentials::Open => first + "everybody on this machine is answered (--no-auth)\n",
        Credentials::Configured { .. } => first,
        Credentials::ForThisRun(pair) => first + &examples(&url, address, secure, pair),
    }
}

fn examples(url: &str, address: SocketAddr, secure: bool, pair: &AccessKey) -> String {
    let AccessKey { id, secret, session_token: _ } = pair;
    let secret = secret.reveal();
    let scheme = if secure { "https" } else { "http" };
    let (verify, no_verify) = match secure {
        true => (",\n    verify=False,  # or the path of the certificate", " --no-verify-ssl"),
        false => ("", ""),
    };
    format!(
        r#"
No credentials are configured, so these were made for this run.

From Python (pip install boto3):

import base64, boto3, json
client = boto3.client(
    "bedrock-runtime", endpoint_url="{url}", region_name="us-east-1",
    aws_access_key_id="{id}",
    aws_secret_access_key="{secret}"{verify}
)
body = {{"text_prompts": [{{"text": "a strawberry on a white background, 3d model"}}], "cfg_scale": 4, "steps": 20}}
reply = client.invoke_model(modelId="stability.stable-diffusion-xl-v1", body=json.dumps(body))
artifact = json.loads(reply["body"].read())["artifacts"][0]
open("strawberry.png", "wb").write(base64.b64decode(artifact["base64"]))

From a shell (pip install awscli):

export AWS_ACCESS_KEY_ID={id}
export AWS_SECRET_ACCESS_KEY={secret}
echo '{{"text_prompts": [{{"text": "a strawberry on a white background, 3d model"}}], "cfg_scale": 4, "steps": 20}}' > body.json
aws bedrock-runtime invoke-model --endpoint-url {url} --region us-east-1{no_verify} \
    --model-id stability.stable-diffusion-xl-v1 --body fileb://body.json answer.json
python3 -c 'import base64, json; a = json.load(open("answer.json"))["artifacts"][0]
open("strawberry.png", "wb").write(base64.b64decode(a["base64"]))'

In Volcengine's protocol, from Python (pip install volcengine), with any picture photo.jpg:

import base64
from volcengine.visual.VisualService import VisualService
visual = VisualService()
visual.set_host("{address}"); visual.set_scheme("{scheme}"); visual.set_socket_timeout(300)
visual.set_ak("{id}"); visual.set_sk("{secret}")
photo = base64.b64encode(open("photo.jpg", "rb").read()).decode()
reply = visual.cv_process({{"req_key": "img2img_pastel_boys_style_usage", "binary_data_base64": [photo]}})
open("styled.jpg", "wb").write(base64.b64decode(reply["data"]["binary_data_base64"][0]))

"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn text_for(credentials: &Credentials) -> String {
        text("127.0.0.1:7".parse().expect("an address"), false, credentials)
    }

    #[test]
    fn the_first_line_says_where() {
        let pair = AccessKey::new("AK", "hush");
        for credentials in [Credentials::Open, Credentials::ForThisRun(pair)] {
            assert!(text_for(&credentials).starts_with("listening on http://127.0.0.1:7\n"));
        }
    }

    #[test]
    fn only_a_pair_made_for_this_run_is_shown() {
        let pair = AccessKey::new("AK", "hush");
        assert!(text_for(&Credentials::ForThisRun(pair.clone())).contains("aws_secret_access_key=\"hush\""));
        let api_keys = vec![Secret::new("hush")];
        let configured = Credentials::Configured { access_keys: vec![pair], api_keys };
        assert!(!text_for(&configured).contains("hush"));
    }
}
