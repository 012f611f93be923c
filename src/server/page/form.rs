//! The page on which pictures are made: the form, and beside it a job or nothing.

use super::Chrome;
use super::job::Panel;
use super::models::Choice;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::diffusion::settings;
use crate::error::FieldError;
use crate::jobs::Id;
use crate::model::codec::Decoder;
use crate::model::unet::Beside;
use crate::request::{Economy, EnergySetting, Facts, GenerateRequest, Inpainting, MAX_COUNT, Restore};
use askama::Template;

/// Prompts to begin with: what the bundled model draws well.
const EXAMPLES: [&str; 6] = ["red apple", "crying face", "yellow star", "cat face", "green leaf", "flat blue heart"];
/// Fields that lie under "Settings": it is opened when one of them is wrong or was set.
const SETTINGS: [&str; 12] = [
    "negative_prompt",
    "steps",
    "guidance",
    "sampler",
    "schedule",
    "width",
    "height",
    "seed",
    "clip_skip",
    "image_guidance",
    "decoder",
    "economy",
];
/// Fields that lie under "Start from a picture".
const PICTURE: [&str; 9] = [
    "image",
    "mask",
    "strength",
    "mask_feather",
    "only_masked",
    "only_masked_padding",
    "extend",
    "inpainting",
    "restore",
];
/// Fields that lie under "Advanced: control".
const CONTROL: [&str; 9] = [
    "control",
    "control_preprocessor",
    "control_image",
    "control_image_2",
    "control_image_3",
    "ip_adapter",
    "ip_adapter_image",
    "energy",
    "energy_image",
];
/// Shapes to choose from: a name, and width to height.
const SHAPES: [(&str, f64); 5] =
    [("Square", 1.0), ("4 : 3", 4.0 / 3.0), ("3 : 4", 0.75), ("16 : 9", 16.0 / 9.0), ("9 : 16", 9.0 / 16.0)];

/// The page.
#[derive(Template)]
#[template(path = "make.html")]
pub(super) struct Make<'a> {
    pub(super) chrome: Chrome<'a>,
    pub(super) choice: Choice,
    pub(super) form: &'a GenerateRequest,
    /// Makes a double submit one job.
    pub(super) form_id: Id,
    /// A finished picture to start from.
    pub(super) start: Option<Id>,
    /// A job whose picture and mask may be used again.
    pub(super) uploads_of: Option<Id>,
    pub(super) errors: &'a [FieldError],
    /// What is wrong with the request as a whole.
    pub(super) banner: Option<&'a str>,
    pub(super) panel: Option<Panel>,
}

/// A size of a certain shape, as large as the model's own.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) width: usize,
    pub(super) height: usize,
    /// How large it is drawn on its button, of 24.
    pub(super) drawn: (usize, usize),
}

impl Make<'_> {
    fn facts(&self) -> &Facts {
        &self.choice.facts
    }

    /// All samplers, those along the flow and those with fresh noise.
    fn samplers(&self) -> [(&'static str, Vec<&'static str>); 2] {
        let of = |stochastic| {
            let samplers = Sampler::ALL.iter().filter(move |sampler| sampler.is_stochastic() == stochastic);
            samplers.map(Sampler::name).collect()
        };
        [("Along the flow", of(false)), ("With fresh noise", of(true))]
    }

    /// Each of them with its settings, as a hint.
    fn hint(&self, name: &str) -> String {
        settings::listed(&name.parse::<Sampler>().map(|sampler| sampler.settings()).unwrap_or_default())
    }

    /// The sampler's name, and the settings behind it.
    fn sampler(&self) -> (&str, &str) {
        settings::apart(self.own("sampler"))
    }

    fn rules(&self) -> [String; 6] {
        Inpainting::ALL.map(|rule| rule.to_string())
    }

    /// What can be left out: the presets, and what was chosen where it is none of them.
    fn economies(&self) -> Vec<String> {
        let mut economies: Vec<String> = Economy::PRESETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        economies.extend(Some(self.economy()).filter(|chosen| !economies.contains(chosen)));
        economies
    }

    /// What was chosen, by the name of a preset where it is one.
    fn economy(&self) -> String {
        let typed = self.typed("economy");
        let preset = typed.parse::<Economy>().ok().and_then(|economy| economy.preset());
        preset.unwrap_or(if typed.is_empty() { "exact" } else { typed }).to_owned()
    }

    fn restorations(&self) -> [String; 3] {
        Restore::ALL.map(|restore| restore.to_string())
    }

    fn energies(&self) -> impl Iterator<Item = String> {
        let possible =
            |energy: &EnergySetting| self.facts().judge.is_some() || !matches!(energy, EnergySetting::Judge { .. });
        EnergySetting::ALL.into_iter().filter(possible).map(String::from)
    }

    fn schedules(&self) -> Vec<&'static str> {
        Spacing::names()
    }

    fn examples(&self) -> [&'static str; 6] {
        EXAMPLES
    }

    fn shapes(&self) -> impl Iterator<Item = Shape> {
        SHAPES.into_iter().map(|(name, ratio)| shape(self.facts(), name, ratio))
    }

    fn max_count(&self) -> usize {
        MAX_COUNT
    }

    fn typed(&self, field: &str) -> &str {
        self.form.text(field)
    }

    /// What was typed, else the model's default.
    fn or(&self, field: &str, default: &impl ToString) -> String {
        match self.form.text(field) {
            "" => default.to_string(),
            typed => typed.to_owned(),
        }
    }

    /// What was typed, unless the model would do that by itself: then nothing, so that it goes for another model, too.
    fn own(&self, field: &str) -> &str {
        if self.is_changed(field) { self.typed(field) } else { "" }
    }

    fn is_changed(&self, field: &str) -> bool {
        !self.typed(field).is_empty() && self.typed(field) != self.default(field)
    }

    fn error(&self, field: &str) -> Option<&str> {
        let told = self.errors.iter().find(|error| error.field == field).map(|error| error.message.as_str());
        told.or(self.choice.error.as_deref().filter(|_| field == "model"))
    }

    /// Errors of fields that the form does not show.
    fn other_errors(&self) -> Vec<&FieldError> {
        let shown: Vec<&str> = [&SETTINGS[..], &PICTURE, &CONTROL, &["prompt", "model", "count"]].concat();
        self.errors.iter().filter(|error| !shown.contains(&error.field.as_str())).collect()
    }

    fn default(&self, field: &str) -> String {
        let facts = self.facts();
        match field {
            "steps" => facts.steps.to_string(),
            "guidance" => facts.guidance.to_string(),
            "sampler" => facts.sampler.to_string(),
            "schedule" => facts.schedule.name().to_owned(),
            "width" => facts.width.to_string(),
            "height" => facts.height.to_string(),
            "inpainting" => Inpainting::default().to_string(),
            "decoder" => Decoder::default().name().to_owned(),
            "economy" => Economy::default().to_string(),
            "image_guidance" => "1.5".to_owned(),
            _ => String::new(),
        }
    }

    /// Whether the model edits pictures.
    fn edits(&self) -> bool {
        self.facts().beside == Beside::Picture
    }

    /// Whether something under "Settings" is wrong, or other than it would be by itself.
    fn settings_open(&self) -> bool {
        SETTINGS.iter().any(|field| self.error(field).is_some() || self.is_changed(field))
    }

    /// Whether there is something to see under "Start from a picture".
    fn picture_open(&self) -> bool {
        let wrong = PICTURE.iter().any(|field| self.error(field).is_some());
        wrong || self.start.is_some() || !self.typed("restore").is_empty() || self.files_are_lost(&PICTURE)
    }

    /// Whether there is something to see under "Advanced: control".
    fn control_open(&self) -> bool {
        let wrong = CONTROL.iter().any(|field| self.error(field).is_some());
        let chosen = ["control", "ip_adapter", "energy"].iter().any(|field| !self.typed(field).is_empty());
        wrong || chosen || self.files_are_lost(&CONTROL)
    }

    /// Whether files of these fields came with a form that is shown again: browsers do not keep them.
    fn files_are_lost(&self, fields: &[&str]) -> bool {
        self.form.files().any(|(field, _)| fields.contains(&field))
    }

    /// The fields of the pictures that nets follow, with what to call them.
    fn control_images(&self) -> [(&'static str, &'static str); 3] {
        [
            ("control_image", "Picture for the first net"),
            ("control_image_2", "for the second"),
            ("control_image_3", "for the third"),
        ]
    }

    fn ip_adapters(&self) -> Vec<String> {
        self.facts().ip_adapters.names()
    }

    fn nets(&self) -> Vec<String> {
        self.facts().controlnets.names()
    }
}

/// The size with `ratio` whose area is nearest to the model's own, in steps that the model can draw.
fn shape(facts: &Facts, name: &'static str, ratio: f64) -> Shape {
    let (step, area) = (facts.multiple_of as f64, (facts.width * facts.height) as f64);
    let side = |length: f64| ((length / step).round().max(1.0) * step) as usize;
    let (width, height) = (side((area * ratio).sqrt()), side((area / ratio).sqrt()));
    let scale = 24.0 / width.max(height) as f64;
    let drawn = ((width as f64 * scale) as usize, (height as f64 * scale) as usize);
    Shape { name, width, height, drawn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_can_be_drawn_and_keep_the_area() {
        let facts = Facts::plain("model", (512, 512), 8);
        let sizes: Vec<(usize, usize)> =
            SHAPES.iter().map(|(name, ratio)| shape(&facts, name, *ratio)).map(|s| (s.width, s.height)).collect();
        assert_eq!(sizes, [(512, 512), (592, 440), (440, 592), (680, 384), (384, 680)]);
    }
}
