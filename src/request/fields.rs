//! The fields of a request: a new one is a line here. What it means is said where a plan is made of it.

use crate::error::FieldError;

/// What a text field holds, and so what JSON may give for it (a string it may always give).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Words.
    Text,
    /// A number.
    Number,
    /// True or false.
    Switch,
}

/// Makes the type of a request, the list of its fields, and the ways from a field's name to its place.
macro_rules! request {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:ident,)* ; $($(#[doc = $file_doc:literal])* $file:ident,)*) => {
        /// The names of all fields.
        pub const FIELDS: [&str; [$(stringify!($name),)* $(stringify!($file),)*].len()] =
            [$(stringify!($name),)* $(stringify!($file),)*];

        /// The names of the fields that hold picture files.
        pub const FILES: [&str; [$(stringify!($file)),*].len()] = [$(stringify!($file),)*];

        /// What was asked for, as typed. Everything but the prompt may be missing.
        ///
        /// Deserialise it with `serde_json::from_slice` (see [`GenerateRequest::from_json`]), fill it with
        /// [`GenerateRequest::set_text`], or build it by hand.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct GenerateRequest {
            $($(#[doc = $doc])* pub $name: Option<String>,)*
            $($(#[doc = $file_doc])* pub $file: Option<Vec<u8>>,)*
            /// What was already wrong when the request was read; [`super::Plan::new`] reports it with the rest.
            pub problems: Vec<FieldError>,
        }

        impl GenerateRequest {
            /// What a text field holds; nothing for other names.
            pub fn kind(field: &str) -> Option<Kind> {
                match field {
                    $(stringify!($name) => Some(Kind::$kind),)*
                    _ => None,
                }
            }

            /// What a field means; nothing for other names.
            pub fn about(field: &str) -> Option<&'static str> {
                match field {
                    $(stringify!($name) => Some(concat!($($doc),*).trim_start()),)*
                    $(stringify!($file) => {
                        Some(concat!($($file_doc),*, " PNG, JPEG or WebP, in base64 or as a data: URL.").trim_start())
                    })*
                    _ => None,
                }
            }

            /// What was typed into a text field, if anything was.
            pub(super) fn typed(&self, field: &str) -> Option<&str> {
                match field {
                    $(stringify!($name) => self.$name.as_deref(),)*
                    _ => None,
                }
            }

            /// Where a text field's value goes.
            pub(super) fn slot(&mut self, field: &str) -> Option<&mut Option<String>> {
                match field {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }

            /// Where a file field's bytes go.
            pub(super) fn file_slot(&mut self, field: &str) -> Option<&mut Option<Vec<u8>>> {
                match field {
                    $(stringify!($file) => Some(&mut self.$file),)*
                    _ => None,
                }
            }

            /// The files that were sent, with the names of their fields.
            pub fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
                let all = [$((stringify!($file), self.$file.as_deref())),*];
                all.into_iter().filter_map(|(field, bytes)| Some((field, bytes?)))
            }
        }
    };
}

request! {
    /// What to draw; "" draws without a prompt.
    prompt: Text,
    /// What not to draw.
    negative_prompt: Text,
    /// Sampler steps.
    steps: Number,
    /// Scale of classifier-free guidance; 1 turns it off.
    guidance: Number,
    /// How far guidance's standard deviation is pulled back to the conditional one's, 0 to 1.
    guidance_rescale: Number,
    /// How closely a model for editing follows the picture that it edits; others do not hear of it.
    image_guidance: Number,
    /// Which layer of the text encoder is read, counted from its end: 1 is the last.
    clip_skip: Number,
    /// A sampler's name.
    sampler: Text,
    /// A sigma ladder's name.
    schedule: Text,
    /// Seed of the first picture; nothing, "" and -1 mean a random one.
    seed: Number,
    /// Number of pictures, with seeds that count up.
    count: Number,
    /// Width in pixels.
    width: Number,
    /// Height in pixels.
    height: Number,
    /// How much of an input picture is redrawn, up to 1.
    strength: Number,
    /// Pixels over which new fades into old, inside the mask's white part.
    mask_feather: Number,
    /// Whether only the surroundings of the mask's white part are drawn, at width x height, and put back into a picture
    /// that keeps its own size.
    only_masked: Switch,
    /// Pixels around the white part that are drawn with it then.
    only_masked_padding: Number,
    /// Borders to add to the picture and to paint, in pixels: `left,top,right,bottom`.
    extend: Text,
    /// The rule by which what is drawn anew follows what is kept: `blend`, `differential` (greys of the mask are strengths),
    /// `repaint`, `pseudo_inverse`, `posterior`, `replacement`; with settings in brackets.
    inpainting: Text,
    /// What the picture in `image` shows of the one to be drawn, which it is not the start of: `grey` (to be colourised),
    /// `small(factor=4)` (to be enlarged) or `blurred(radius=2)`.
    restore: Text,
    /// What else than the prompt to draw towards, by gradients: the `colours` of the picture in `energy_image`, or what the
    /// model's `judge` takes for the prompt; with a scale in brackets.
    energy: Text,
    /// LoRAs with their strengths: `name:0.8, other:0.5`; the same as tags in the prompt, `<lora:name:0.8>`.
    loras: Text,
    /// A noise generator's name.
    noise: Text,
    /// A model's name.
    model: Text,
    /// Which decoder draws the finished picture: `full`, the model's own, or `tiny`, faster and not as well.
    decoder: Text,
    /// What of the work is left out, for a picture that is done sooner and is not quite the same: `exact` (nothing), `balanced`
    /// or `fast`; with settings in brackets, such as `exact(cache=3, depth=1, merge=0.5, guide_from=0.1, guide_to=0.8)`.
    economy: Text,
    /// ControlNets, separated by commas, each `NAME[:WEIGHT[:START[:END]]]`: how much it counts, from 0 to 2, and from which
    /// to which share of the steps. They follow the pictures in `control_image` and so on, in this order.
    control: Text,
    /// What is done to these pictures first, separated by commas: `none`, or `canny` or `canny:LOW:HIGH` for their edges.
    control_preprocessor: Text,
    /// An IP-Adapter, `NAME[:WEIGHT[:START[:END]]]` as for `control`: a picture, in `ip_adapter_image`, as a prompt.
    ip_adapter: Text,
    /// What is to be done: `generate` (which it is without this), or with a picture `likelihood`, `encode`, `decode`,
    /// `edit`, `interpolate` or `rank`.
    task: Text,
    /// What the picture shows that is to be edited: it is taken apart under this, and put together under the prompt.
    source_prompt: Text,
    /// Captions to be ranked, one a line.
    captions: Text,
    /// What the solver of the flow may err by in a step, relative to the state.
    tolerance: Number,
    /// How many estimates of a likelihood are made, each with random numbers of its own.
    draws: Number,
    /// Probes of a divergence for each draw; 0 computes it exactly, at a cost that grows with the square of the pixels.
    probes: Number,
    /// Noise levels at which the evidence lower bound is computed, or captions are compared; 0 leaves the bound out.
    levels: Number,
    /// Whether to compute the density of the guided flow, which is no likelihood, where guidance is not 1.
    guided_flow: Switch,
    ; // What follows are picture files.
    /// A picture to start from.
    image,
    /// A second picture, to interpolate to.
    image_2,
    /// A mask as large as that picture: white is repainted.
    mask,
    /// What the first ControlNet follows: a picture to find edges in, or edges, depths, scribbles as it knows them.
    control_image,
    /// What the second ControlNet follows.
    control_image_2,
    /// What the third ControlNet follows.
    control_image_3,
    /// What an IP-Adapter takes for a prompt.
    ip_adapter_image,
    /// A picture of the colours that are wanted.
    energy_image,
}
