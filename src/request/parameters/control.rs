//! ControlNets as AUTOMATIC1111's extension for them writes them into `parameters`: each setting is a text of settings.

use super::grammar::settings;
use crate::request::{ControlSetting, Preprocessor};

/// `Module: canny, Model: NAME [HASH], Weight: 1, Guidance Start: 0, Guidance End: 1`, as far as it is possible here.
pub(super) fn setting(value: &str) -> Option<ControlSetting> {
    let pairs = settings(value);
    let text = |key: &str| pairs.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str());
    let number = |key: &str, usual: f64| text(key).map_or(Some(usual), |value| value.parse().ok());
    let slope = |key: &str| text(key)?.parse::<f64>().ok().filter(|slope| *slope >= 0.0).map(|slope| slope as u32);
    let preprocessor = match text("Module").unwrap_or("none") {
        "none" => Preprocessor::None,
        "canny" => Preprocessor::Canny { low: slope("Threshold A")?, high: slope("Threshold B")? },
        _ => return None,
    };
    let net = text("Model")?;
    Some(ControlSetting {
        net: net.split(" [").next().unwrap_or(net).to_owned(),
        weight: number("Weight", 1.0)?,
        start: number("Guidance Start", 0.0)?,
        end: number("Guidance End", 1.0)?,
        preprocessor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_web_ui_writes_is_read() {
        let text = "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, Resize Mode: Crop and Resize, \
                    Processor Res: 512, Threshold A: 100.0, Threshold B: 200.0, Guidance Start: 0.1, Guidance End: 0.9, \
                    Pixel Perfect: False, Control Mode: Balanced";
        let found = setting(text).unwrap();
        assert_eq!(found.to_string(), "control_v11p_sd15_canny:0.8:0.1:0.9");
        assert_eq!(found.preprocessor, Preprocessor::Canny { low: 100, high: 200 });
        let usual = setting("Module: none, Model: depth [1234]").unwrap();
        assert_eq!((usual.to_string(), usual.preprocessor), ("depth".to_owned(), Preprocessor::None));
        for other in ["Module: depth_midas, Model: depth", "Module: canny, Model: x", "Module: none", ""] {
            assert_eq!(setting(other), None, "{other}");
        }
    }
}
