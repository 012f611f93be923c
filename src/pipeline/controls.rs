//! ControlNets and an IP-Adapter in memory, and what of them has a say in a step.

use super::receipt::Controlled;
use super::recent::Recent;
use crate::Result;
use crate::image;
use crate::model::checkpoint::{LoadedControlNet, LoadedIpAdapter, Precision};
use crate::model::unet::{Conditioning, ImagePrompt, Residuals};
use crate::request::{self, ControlSetting, Facts, MAX_CONTROLS, Plan};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// The networks that were used last, as many as one request can name.
#[derive(Debug)]
pub(super) struct Nets {
    controlnets: Recent<LoadedControlNet>,
    ip_adapters: Recent<LoadedIpAdapter>,
    device: Device,
    precision: Precision,
}

/// What guides a plan besides its text: nets that follow a picture each, and a picture that is a prompt itself.
#[derive(Clone, Default)]
pub(super) struct Guides {
    controls: Vec<Control>,
    prompt: Option<Prompt>,
    /// Of the whole walk.
    steps: usize,
}

/// A ControlNet and its picture.
#[derive(Clone)]
struct Control {
    net: Arc<LoadedControlNet>,
    setting: ControlSetting,
    /// The picture, as the net takes it in: (1, h, w, C).
    hint: Tensor,
}

/// A picture as a prompt.
#[derive(Clone)]
struct Prompt {
    setting: ControlSetting,
    hash: String,
    /// Of no picture and of this one, two rows.
    states: ImagePrompt,
}

impl Nets {
    pub(super) fn new(device: &Device, precision: Precision) -> Self {
        let (controlnets, ip_adapters) = (Recent::new(MAX_CONTROLS), Recent::new(1));
        Self { controlnets, ip_adapters, device: device.clone(), precision }
    }

    /// Lets go of those that nobody uses.
    pub(super) fn forget_unused(&self) {
        self.controlnets.forget_unused();
        self.ip_adapters.forget_unused();
    }

    /// Bytes that the weights of all of them take in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.controlnets.sum(|net| net.bytes) + self.ip_adapters.sum(|adapter| adapter.bytes)
    }

    /// What guides `plan` through `steps` steps, as far as `facts` know it; `dtype` is the U-Net's. `make_room` is
    /// called before anything is loaded.
    pub(super) fn guides(
        &self,
        plan: &Plan,
        facts: &Facts,
        (steps, dtype): (usize, DType),
        make_room: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Guides> {
        let controls = plan.controls.iter().map(|control| self.control(control, facts, make_room));
        let controls = controls.collect::<Result<_>>()?;
        let prompt = plan.image_prompt.as_ref().map(|prompt| self.prompt(prompt, facts, dtype, make_room));
        Ok(Guides { controls, prompt: prompt.transpose()?, steps })
    }

    fn control(
        &self,
        control: &request::Control,
        facts: &Facts,
        make_room: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Control> {
        let (name, known) = (&control.setting.net, &facts.controlnets);
        let net = self.controlnets.get(&known.stamps(name), || {
            make_room(known.bytes(name, self.precision)?)?;
            known.load(name, &self.device, self.precision)
        })?;
        // From black to white, 0 to 1.
        let picture = image::to_tensor(&control.picture, &self.device)?.affine(0.5, 0.5)?;
        Ok(Control { hint: net.network.hint(&picture)?, net, setting: control.setting.clone() })
    }

    fn prompt(
        &self,
        prompt: &request::Control,
        facts: &Facts,
        dtype: DType,
        make_room: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Prompt> {
        let (setting, known) = (prompt.setting.clone(), &facts.ip_adapters);
        let load = || {
            make_room(known.bytes(&setting.net, self.precision)?)?;
            known.load(&setting.net, &self.device, self.precision)
        };
        let loaded = self.ip_adapters.get(&known.stamps(&setting.net), load)?;
        let states = loaded.network.states(&loaded.encoder, &prompt.picture, &self.device)?;
        let states = loaded.network.prompt(&states, setting.weight, dtype)?;
        Ok(Prompt { states, hash: loaded.hash().to_owned(), setting })
    }
}

impl Guides {
    /// What receipts say of the ControlNets.
    pub(super) fn controls(&self) -> Vec<Controlled> {
        let told = |c: &Control| Controlled { setting: c.setting.clone(), hash: c.net.hash().to_owned() };
        self.controls.iter().map(told).collect()
    }

    /// What receipts say of the IP-Adapter.
    pub(super) fn prompt(&self) -> Option<Controlled> {
        self.prompt.as_ref().map(|p| Controlled { setting: p.setting.clone(), hash: p.hash.clone() })
    }

    /// Steps of the whole walk.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// Those that count in step `step`, from 0.
    pub(super) fn at(&self, step: usize) -> Self {
        let counts = |setting: &ControlSetting| setting.counts_in(step, self.steps) && setting.weight != 0.0;
        let controls = self.controls.iter().filter(|control| counts(&control.setting)).cloned().collect();
        Self { controls, prompt: self.prompt.clone().filter(|prompt| counts(&prompt.setting)), steps: self.steps }
    }

    /// The picture as a prompt for rows of samples, of which those follow it that `follows` names.
    pub(super) fn image_prompt(&self, follows: &[bool]) -> Result<Option<ImagePrompt>> {
        let rows: Vec<u32> = follows.iter().map(|follows| u32::from(*follows)).collect();
        self.prompt.as_ref().map(|prompt| prompt.states.rows(&rows)).transpose()
    }

    /// The sum of what the nets add, if there are any.
    pub(super) fn residuals(&self, x: &Tensor, t: &Tensor, given: &Conditioning) -> Result<Option<Residuals>> {
        let mut sum: Option<Residuals> = None;
        for Control { net, setting, hint } in &self.controls {
            let residuals = net.network.forward(x, t, given, hint)?.scaled(setting.weight)?;
            sum = Some(match sum {
                Some(sum) => sum.plus(&residuals)?,
                None => residuals,
            });
        }
        Ok(sum)
    }
}
