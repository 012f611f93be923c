//! What the networks' deeper levels found in some steps, for the steps after them: see [`Deep`].

use crate::Result;
use crate::model::unet::{Conditioning, Deep, UNet2DConditionModel};
use crate::request::Economy;
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Of one picture, which must not depend on others; nothing where every step is to run whole networks.
#[derive(Debug, Clone)]
pub(super) struct Found(Option<Rc<Kept>>);

#[derive(Debug)]
struct Kept {
    economy: Economy,
    /// Of each network its block of steps, and what it found in there.
    deep: RefCell<HashMap<usize, (usize, Deep)>>,
}

/// The place of a network's call.
#[derive(Debug, Clone)]
pub(super) struct Place {
    found: Found,
    /// The same network with the same texts has the same number in all steps.
    network: usize,
    /// From 0.
    step: usize,
}

impl Found {
    /// Nothing yet.
    pub(super) fn new(economy: Economy) -> Self {
        Self((economy.cache > 1).then(|| Rc::new(Kept { economy, deep: RefCell::default() })))
    }

    pub(super) fn place(&self, network: usize, step: usize) -> Place {
        Place { found: self.clone(), network, step }
    }
}

impl Place {
    /// Calls the network: whole where nothing was found in this block of steps yet, else its finest level. `given` is asked for
    /// what it is told, ControlNets' part included where that is not known from before.
    ///
    /// A call that is differentiated is whole, since what was found knows nothing of `x`.
    pub(super) fn call(
        &self,
        unet: &UNet2DConditionModel,
        x: &Tensor,
        t: &Tensor,
        given: impl Fn(bool) -> Result<Conditioning>,
    ) -> Result<Tensor> {
        let Some(kept) = self.found.0.as_ref().filter(|_| !x.track_op()) else {
            return unet.forward(x, t, &given(true)?);
        };
        let block = self.step / kept.economy.cache;
        let before = kept.deep.borrow().get(&self.network).filter(|(then, _)| *then == block).cloned();
        if let Some((_, deep)) = before {
            return unet.forward_reusing(x, t, &given(false)?, &deep);
        }
        // What is replaced goes first: it is as large.
        kept.deep.borrow_mut().remove(&self.network);
        let (prediction, deep) = unet.forward_keeping(x, t, &given(true)?, kept.economy.depth)?;
        kept.deep.borrow_mut().insert(self.network, (block, deep));
        Ok(prediction)
    }
}
