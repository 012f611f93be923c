//! ControlNets in memory, and what of them has a say in a step.

use super::receipt::Controlled;
use crate::Result;
use crate::image;
use crate::model::checkpoint::{ControlNets, LoadedControlNet, Precision};
use crate::model::unet::{Conditioning, Residuals};
use crate::request::{ControlSetting, MAX_CONTROLS, Plan};
use candle_core::{Device, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// The nets that were used last, as many as one request can name.
#[derive(Debug, Default)]
pub(super) struct Nets {
    used: Mutex<Vec<(String, Arc<LoadedControlNet>)>>,
}

impl Nets {
    /// The net called `name`, from disk if it has to be. Two threads may load the same one; both then use the second.
    fn get(
        &self,
        nets: &ControlNets,
        name: &str,
        device: &Device,
        precision: Precision,
    ) -> Result<Arc<LoadedControlNet>> {
        if let Some(net) = self.touch(name, |used| used.iter().find(|(other, _)| other == name).map(|(_, n)| n.clone()))
        {
            return Ok(net);
        }
        let net = Arc::new(nets.load(name, device, precision)?);
        self.touch(name, |_| Some(net.clone()));
        Ok(net)
    }

    /// Puts the net that `find` gives in front.
    fn touch(
        &self,
        name: &str,
        find: impl FnOnce(&[(String, Arc<LoadedControlNet>)]) -> Option<Arc<LoadedControlNet>>,
    ) -> Option<Arc<LoadedControlNet>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let net = find(&used)?;
        used.retain(|(other, _)| other != name);
        used.insert(0, (name.to_owned(), net.clone()));
        used.truncate(MAX_CONTROLS);
        Some(net)
    }
}

/// The nets of a plan with the pictures that they follow.
#[derive(Clone, Default)]
pub(super) struct Controls(Vec<Control>);

#[derive(Clone)]
struct Control {
    net: Arc<LoadedControlNet>,
    setting: ControlSetting,
    /// The picture, as the net takes it in: (1, h, w, C).
    hint: Tensor,
}

impl Controls {
    pub(super) fn load(
        nets: &Nets,
        known: &ControlNets,
        plan: &Plan,
        device: &Device,
        precision: Precision,
    ) -> Result<Self> {
        let load = |control: &crate::request::Control| {
            let net = nets.get(known, &control.setting.net, device, precision)?;
            // From black to white, 0 to 1.
            let picture = image::to_tensor(&control.picture, device)?.affine(0.5, 0.5)?;
            Ok(Control { hint: net.network.hint(&picture)?, net, setting: control.setting.clone() })
        };
        Ok(Self(plan.controls.iter().map(load).collect::<Result<_>>()?))
    }

    /// What receipts say of them.
    pub(super) fn receipts(&self) -> Vec<Controlled> {
        self.0.iter().map(|c| Controlled { setting: c.setting.clone(), hash: c.net.hash().to_owned() }).collect()
    }

    /// Those that count in step `step` of `steps`.
    pub(super) fn at(&self, step: usize, steps: usize) -> Self {
        let counts = |control: &&Control| control.setting.counts_in(step, steps) && control.setting.weight != 0.0;
        Self(self.0.iter().filter(counts).cloned().collect())
    }

    /// The sum of what they add, if there are any.
    pub(super) fn residuals(&self, x: &Tensor, t: &Tensor, given: &Conditioning) -> Result<Option<Residuals>> {
        let mut sum: Option<Residuals> = None;
        for Control { net, setting, hint } in &self.0 {
            let residuals = net.network.forward(x, t, given, hint)?.scaled(setting.weight)?;
            sum = Some(match sum {
                Some(sum) => sum.plus(&residuals)?,
                None => residuals,
            });
        }
        Ok(sum)
    }
}
