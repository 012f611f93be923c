//! Pictures from measurements: what was measured is a linear function of the picture, and the model fills in the rest.
//!
//! * [`operator`]: what can be measured: some pixels, brightness alone, a smaller picture, a blurred one.
//! * [`guided`]: a denoiser that draws towards a measurement by the gradient of its likelihood.

pub mod guided;
pub mod operator;

pub use guided::{Measured, Rule};
pub use operator::{Blur, Grey, LinearOperator, Masked, Shrink};
