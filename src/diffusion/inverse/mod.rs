//! Pictures that are drawn towards something: what was measured of them, from which the model fills in the rest, or a low
//! energy.
//!
//! * [`towards`]: a denoiser that is moved by gradients, and what may move it.
//! * [`operator`]: what can be measured: some pixels, brightness alone, a smaller picture, a blurred one.
//! * [`measured`]: the gradient of a measurement's likelihood.
//! * [`energy`]: the gradient of whatever is wanted: another picture's colours, a classifier's opinion.

pub mod energy;
pub mod measured;
pub mod operator;
pub mod towards;

pub use energy::{Colours, Energy, Steered};
pub use measured::{Measured, Rule};
pub use operator::{Blur, Grey, LinearOperator, Masked, Shrink};
pub use towards::{Pull, Towards, View};
