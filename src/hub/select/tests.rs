use super::*;
use crate::hub::Digest;

/// A listing of these paths.
fn listing(paths: &[&str]) -> Listing {
    let file = |path: &&str| RemoteFile { path: (*path).into(), size: 1, digest: Digest::Sha256("ab".into()) };
    Listing { id: "a/b".into(), commit: "c".into(), licence: None, files: paths.iter().map(file).collect() }
}

/// The configurations of a Stable Diffusion folder.
const CONFIGURATIONS: [&str; 8] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "text_encoder/config.json",
    "vae/config.json",
    "unet/config.json",
    "README.md",
];

fn chosen(more: &[&str], variant: Variant) -> Result<Vec<String>> {
    let listing = listing(&[&CONFIGURATIONS, more].concat());
    let files = files(&listing, &form(&listing, None)?, variant)?;
    Ok(files.into_iter().map(|file| file.path).filter(|path| path.contains("safetensors")).collect())
}

fn refusal(more: &[&str]) -> String {
    let error = chosen(more, Variant::Fp16).unwrap_err();
    assert!(matches!(error, Error::Hub(Fault::Unsuitable(_))), "{error}");
    error.to_string()
}

/// Weights of the two small networks, so that a test is about the U-Net's.
const OTHERS: [&str; 2] = ["text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"];

#[test]
fn of_a_folder_only_what_draws_is_taken_configurations_first() {
    let ballast = [
        "v1-5.safetensors",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/openvino/config.json",
        "unet_other/config.json",
        "text_encoder/flax_model.msgpack",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    let listing = listing(&[&CONFIGURATIONS[1..], &OTHERS, &ballast, &CONFIGURATIONS[..1]].concat());
    let files = files(&listing, &Form::Folder, Variant::Full).unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
    let weights = [OTHERS[0], OTHERS[1], "unet/diffusion_pytorch_model.safetensors"];
    assert_eq!(paths, [&CONFIGURATIONS[..7], &weights].concat());
}

#[test]
fn each_component_has_one_variant_the_wanted_one_where_it_is_there() {
    let both = [
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ];
    assert_eq!(chosen(&both, Variant::Fp16).unwrap(), [both[0], both[1], both[3]]);
    assert_eq!(chosen(&both, Variant::Full).unwrap(), [both[0], both[1], both[2]]);
    let brain = "unet/diffusion_pytorch_model.bf16.safetensors";
    assert_eq!(chosen(&[both[0], both[1], brain], Variant::Full).unwrap(), [both[0], both[1], brain]);
}

#[test]
fn shards_come_with_their_index_and_only_all_together() {
    let full = [
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    ];
    for half in [
        [
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
        ],
        [
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model-00001-of-00001.fp16.safetensors",
        ],
    ] {
        let all = [&OTHERS[..], &full, &half].concat();
        let of_unet = |variant| {
            let mut paths = chosen(&all, variant).unwrap();
            paths.retain(|path| path.starts_with("unet/"));
            paths.sort();
            paths
        };
        let sorted = |mut paths: Vec<&'static str>| {
            paths.sort_unstable();
            paths
        };
        assert_eq!(of_unet(Variant::Full), sorted(full.to_vec()));
        assert_eq!(of_unet(Variant::Fp16), sorted(half.to_vec()));
    }
    let torn = [&OTHERS[..], &full[..2]].concat();
    assert!(refusal(&torn).contains("a/b: in unet/, no .safetensors files that could be loaded"), "{}", refusal(&torn));
}

#[test]
fn the_second_text_encoder_of_xl_is_taken_along() {
    let second = [
        "unet/diffusion_pytorch_model.safetensors",
        "tokenizer_2/vocab.json",
        "text_encoder_2/config.json",
        "text_encoder_2/model.fp16.safetensors",
    ];
    let weights = chosen(&[&OTHERS[..], &second].concat(), Variant::Full).unwrap();
    assert!(weights.contains(&second[3].to_owned()));
    let without = [&OTHERS[..], &second[..3]].concat();
    assert!(refusal(&without).contains("in text_encoder_2/, no .safetensors"));
}

#[test]
fn pickles_are_refused_with_the_reason() {
    let pickles = [&OTHERS[..], &["unet/diffusion_pytorch_model.bin"]].concat();
    let says = refusal(&pickles);
    assert!(
        says.contains("only pickles such as unet/diffusion_pytorch_model.bin: a pickle file can run code"),
        "{says}"
    );
    let only = form(&listing(&["model.ckpt", "README.md"]), None).unwrap_err().to_string();
    assert!(only.starts_with("a/b: no .safetensors files, only pickles such as model.ckpt: "), "{only}");
    let asked = form(&listing(&["model.ckpt"]), Some("model.ckpt")).unwrap_err().to_string();
    assert!(asked.starts_with("a/b: model.ckpt: a pickle file can run code"), "{asked}");
}

#[test]
fn a_file_is_taken_when_it_is_asked_for_or_the_only_one() {
    let two = listing(&["x.safetensors", "sub/y.safetensors", "z.txt"]);
    assert_eq!(form(&two, Some("sub/y.safetensors")).unwrap(), Form::File("sub/y.safetensors".into()));
    let says = form(&two, None).unwrap_err().to_string();
    assert_eq!(
        says,
        "a/b: no model_index.json, so say which file is meant; it has --file \"x.safetensors\" (1 B), --file \
         \"sub/y.safetensors\" (1 B)"
    );
    for wrong in ["y.safetensors", "z.txt", ""] {
        assert!(matches!(form(&two, Some(wrong)), Err(Error::Hub(Fault::Missing(_)))), "{wrong:?}");
    }
    let one = listing(&["x.safetensors", "z.txt"]);
    assert_eq!(form(&one, None).unwrap(), Form::File("x.safetensors".into()));
    assert_eq!(files(&one, &Form::File("x.safetensors".into()), Variant::Fp16).unwrap(), one.files[..1]);
    let none = form(&listing(&["z.txt"]), None).unwrap_err().to_string();
    assert_eq!(none, "a/b: no .safetensors files that could be loaded");
}

#[test]
fn a_folder_without_a_unet_is_no_stable_diffusion_model() {
    let flux = listing(&["model_index.json", "transformer/config.json", "scheduler/c.json", "tokenizer/c.json"]);
    let says = files(&flux, &Form::Folder, Variant::Fp16).unwrap_err().to_string();
    assert_eq!(says, "a/b: no configuration in text_encoder/: not a Stable Diffusion model");
}

#[test]
fn a_refiner_is_refused_as_what_it_is() {
    let refiner = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer_2/vocab.json",
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors",
        "vae/config.json",
        "unet/config.json",
    ];
    let error = files(&listing(&refiner), &Form::Folder, Variant::Fp16).unwrap_err();
    assert!(matches!(error, Error::Hub(Fault::Unsuitable(_))), "{error}");
    assert_eq!(error.to_string(), format!("a/b: {REFINER}"));
}
