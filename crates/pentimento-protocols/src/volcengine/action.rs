//! Which action a request's query names, and in which version.
//!
//! The version decides the envelope: `2022-08-31` answers a flat body, `2024-06-06` the same inside `Result`.

use super::fault::Fault;
use percent_encoding::percent_decode_str;

/// What an action does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Draws a picture and answers with it.
    Process,
    /// Takes the same as a task.
    Submit,
    /// Answers what has become of a task.
    GetResult {
        /// Whether an unknown task is an error; otherwise it is the status `not_found`.
        unknown_is_error: bool,
    },
    /// Breaks a task off.
    Cancel,
}

/// How answers are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Envelope {
    /// The business body alone.
    Flat,
    /// `ResponseMetadata` and `Result`.
    Wrapped,
}

/// A request's action and version as they were given, and what they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// `Action`, as it is told back.
    pub(super) action: String,
    /// `Version`, as it is told back.
    pub(super) version: String,
    /// `X-Expires`.
    pub(super) expires: Option<String>,
}

/// An action that is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Action {
    /// What it does.
    pub(super) verb: Verb,
    /// How it is answered.
    pub(super) envelope: Envelope,
    /// The style where the body names none: legacy actions are named after theirs.
    pub(super) style: Option<&'static str>,
}

const FLAT: &str = "2022-08-31";
const WRAPPED: &str = "2024-06-06";

/// Longest action and version that are told back.
const MOST_ECHOED: usize = 64;

/// The actions that exist in both versions.
const ACTIONS: [(&str, Verb); 6] = [
    ("CVProcess", Verb::Process),
    ("CVSync2AsyncSubmitTask", Verb::Submit),
    ("CVSync2AsyncGetResult", Verb::GetResult { unknown_is_error: false }),
    ("CVSubmitTask", Verb::Submit),
    ("CVGetResult", Verb::GetResult { unknown_is_error: true }),
    ("CVCancelTask", Verb::Cancel),
];

/// Those of the newer version alone.
const STYLIZE: [&str; 2] = ["AIGCStylizeImage", "AIGCStylizeImageUsage"];

/// Older names of `CVProcess` in the older version, with their styles.
const LEGACY: [(&str, &str); 11] = [
    ("Img2ImgCreatePastelBoys2D", "img2img_pastel_boys_style"),
    ("Img2ImgCreateEtherRealMix", "img2img_real_mix_style"),
    ("Img2ImgCreateRevAnimated", "img2img_rev_animated_style"),
    ("Img2ImgCreateToonyou", "img2img_cartoon_style"),
    ("Img2ImgCreateAnyloraMakoto", "img2img_makoto_style"),
    ("Img2ImgCreateAesBlueline", "img2img_blueline_style"),
    ("Img2ImgCreateInkAndWater", "img2img_water_ink_style"),
    ("Img2ImgCreateDisneyStyleNoFace", "img2img_disney_3d_style"),
    ("Img2ImgWaterColorStyle", "img2img_water_paint_style"),
    ("Img2ImgComicsStyle", "img2img_comic_style"),
    ("Img2ImgExquisiteStyle", "img2img_exquisite_style"),
];

impl Query {
    /// Reads a raw target's query. A name given twice counts the first time.
    pub(super) fn read(target: &str) -> Self {
        Self {
            action: parameter(target, "Action").unwrap_or_default(),
            version: parameter(target, "Version").unwrap_or_default(),
            expires: parameter(target, "X-Expires"),
        }
    }

    /// Refuses a query without action or version.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match (self.action.is_empty(), self.version.is_empty()) {
            (true, _) => Err(Fault::MissingQuery("Action")),
            (_, true) => Err(Fault::MissingQuery("Version")),
            _ => Ok(()),
        }
    }

    /// What is to be done.
    pub(super) fn resolve(&self, method: &str) -> Result<Action, Fault> {
        let envelope = match self.version.as_str() {
            FLAT => Envelope::Flat,
            WRAPPED => Envelope::Wrapped,
            _ => return Err(Fault::UnknownAction),
        };
        let name = self.action.as_str();
        let plain = ACTIONS.into_iter().find(|(action, _)| *action == name).map(|(_, verb)| (verb, None));
        let stylize = || {
            let is_one = envelope == Envelope::Wrapped && STYLIZE.contains(&name);
            is_one.then_some((Verb::Process, None))
        };
        let legacy = || {
            let known = LEGACY.into_iter().filter(|_| envelope == Envelope::Flat);
            known
                .into_iter()
                .find(|(action, _)| *action == name)
                .map(|(_, style)| (Verb::Process, Some(style)))
        };
        let (verb, style) = plain
            .or_else(stylize)
            .or_else(legacy)
            .filter(|_| matches!(method, "POST" | "GET"))
            .ok_or(Fault::UnknownAction)?;
        Ok(Action { verb, envelope, style })
    }
}

/// Whether a raw target is one of this vendor's: the root path, with an action where it is not a plain POST.
pub(super) fn claims(method: &str, target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    matches!(path, "" | "/") && (method == "POST" || parameter(target, "Action").is_some())
}

/// The first value of a parameter, decoded and cut.
fn parameter(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode_str(value).decode_utf8_lossy().chars().take(MOST_ECHOED).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(method: &str, target: &str) -> Result<Action, Fault> {
        Query::read(target).resolve(method)
    }

    #[test]
    fn every_action_is_found_in_its_versions() {
        for (name, verb) in ACTIONS {
            for (version, envelope) in [(FLAT, Envelope::Flat), (WRAPPED, Envelope::Wrapped)] {
                let action = resolve("POST", &format!("/?Action={name}&Version={version}"));
                assert_eq!(action, Ok(Action { verb, envelope, style: None }));
            }
        }
        for name in STYLIZE {
            assert!(resolve("POST", &format!("/?Version={WRAPPED}&Action={name}")).is_ok());
            assert!(resolve("POST", &format!("/?Version={FLAT}&Action={name}")).is_err());
        }
        for (name, style) in LEGACY {
            let action = resolve("POST", &format!("/?Action={name}&Version={FLAT}")).expect("it is known");
            assert_eq!((action.verb, action.style), (Verb::Process, Some(style)));
            assert!(resolve("POST", &format!("/?Action={name}&Version={WRAPPED}")).is_err());
        }
    }

    #[test]
    fn unknown_ones_are_refused() {
        for target in [
            "/",
            "/?Action=CVProcess",
            "/?Action=CvProcess&Version=2022-08-31",
            "/?Action=CVProcess&Version=2022",
        ] {
            assert_eq!(resolve("POST", target), Err(Fault::UnknownAction), "{target}");
        }
        assert!(resolve("PUT", "/?Action=CVProcess&Version=2022-08-31").is_err());
        assert!(resolve("GET", "/?Action=CVProcess&Version=2022-08-31").is_ok());
    }

    #[test]
    fn only_the_root_is_claimed() {
        assert!(claims("POST", "/") && claims("POST", "/?x") && claims("GET", "/?Action=CVProcess"));
        assert!(claims("DELETE", "/?Version=1&Action=a") && claims("POST", ""));
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/?x=1"),
            ("POST", "/model/x/invoke"),
            ("POST", "/x?Action=CVProcess"),
            ("POST", "//"),
        ] {
            assert!(!claims(method, target), "{method} {target}");
        }
    }
}
