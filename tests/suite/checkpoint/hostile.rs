//! Files that were damaged, or made to do harm: each is refused with a sentence, soon, and with little memory.
//! (`reference/reliability.md` of the project, 3 F; what loads or is refused for plainer reasons is tested beside this.)

use super::single::joined;
use super::tiny::Tiny;
use super::{TEXT, UNET, VAE, load, refusal, with_header};
use candle_core::{DType, Device, Tensor};
use limner::Error;
use limner::pipeline::Pipeline;
use limner::request::{GenerateRequest, Plan};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Everything that is read of a folder.
const FILES: [&str; 10] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "vae/config.json",
    TEXT,
    UNET,
    VAE,
];

/// A file that claims to be a gigabyte, and takes no room on the disk.
fn grow(path: &Path) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1 << 30).unwrap();
}

#[test]
fn headers_of_any_length_are_refused() {
    let tiny = Tiny::new();
    for (length, expected) in [
        (0, "not a safetensors file: "),
        (1, "not a safetensors file: "),
        (1 << 63, "not a safetensors file: "),
        (u64::MAX - 8, "not a safetensors file: "),
        (u64::MAX, "not a safetensors file: "),
        (99_999_999, "it has 18 bytes, its header needs 100000007"),
    ] {
        tiny.write(UNET, &[&u64::to_le_bytes(length)[..], b"{\"a\":1}   "].concat());
        let message = refusal(&tiny);
        assert!(message.starts_with(UNET) && message.contains(expected), "{length}: {message}");
    }
}

#[test]
fn headers_that_are_no_list_of_tensors_are_refused() {
    let tiny = Tiny::new();
    for json in [
        "hello",
        "null",
        "\"a\"",
        "12",
        "{}x",
        r#"{"a":[]}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"dtype":"F32","shape":[1]}}"#,
        r#"{"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":[]}"#,
    ] {
        tiny.write(UNET, &with_header(json, 4));
        let message = refusal(&tiny);
        assert!(message.starts_with(&format!("{UNET}: not a safetensors file: ")), "{json}: {message}");
    }
}

#[test]
fn spans_that_overlap_or_leave_gaps_are_refused() {
    let two = |first: &str, second: &str| {
        let tensor = |name, span| format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{span}]}}"#);
        with_header(&format!("{{{},{}}}", tensor("a", first), tensor("b", second)), 16)
    };
    let tiny = Tiny::new();
    for (first, second) in [("0,8", "4,12"), ("0,8", "0,8"), ("0,8", "12,20"), ("8,16", "8,16"), ("4,12", "12,20")] {
        tiny.write(UNET, &two(first, second));
        let message = refusal(&tiny);
        assert!(message.starts_with(UNET) && message.contains("not a safetensors file"), "{first} {second}: {message}");
    }
    tiny.write(UNET, &two("8,16", "0,8"));
    assert!(refusal(&tiny).contains("tensors are missing"), "any order will do");
}

#[test]
fn a_dimension_of_zero_is_another_shape() {
    let tiny = Tiny::new();
    let mut tensors = tiny.tensors(UNET);
    tensors.insert("conv_in.weight".into(), Tensor::zeros((0, 4, 3, 3), DType::F32, &Device::Cpu).unwrap());
    tiny.save(UNET, &tensors);
    assert_eq!(refusal(&tiny), format!("{UNET}: tensor conv_in.weight: expected [8, 4, 3, 3], found [0, 4, 3, 3]"));
}

/// The content decides, whatever the name says.
#[test]
fn names_say_nothing() {
    let tiny = Tiny::new();
    let variant = VAE.replace(".safetensors", ".fp16.safetensors");
    fs::rename(tiny.file(VAE), tiny.file(&variant)).unwrap();
    load(&tiny);
    for name in [TEXT, UNET] {
        tiny.write(name, b"\x80\x02}q\x00.");
        assert!(refusal(&tiny).starts_with(&format!("{name}: a pickle file can run code")));
        tiny.save(name, &Tiny::new().tensors(name));
    }
}

#[test]
fn a_gigabyte_where_kilobytes_belong_is_not_read() {
    for name in FILES.into_iter().filter(|name| !name.ends_with(".safetensors")) {
        let tiny = Tiny::new();
        grow(&tiny.file(name));
        let message = refusal(&tiny);
        assert!(message.starts_with(&format!("{name}: 1073741824 bytes are too many for this file, ")), "{message}");
    }
    let tiny = Tiny::new();
    grow(&tiny.file(VAE));
    assert!(refusal(&tiny).starts_with(&format!("{VAE}: the file is too long: it has 1073741824 bytes, ")));
}

/// Opening a pipe waits until somebody writes to it, and a device may never end.
#[cfg(unix)]
#[test]
fn nothing_but_regular_files_is_opened() {
    for name in FILES {
        let tiny = Tiny::new();
        let path = tiny.file(name);
        // Without an index a folder is no model folder: that is said of the folder.
        let expected = |what: &str| match name {
            "model_index.json" => "not a model folder: it has no model_index.json".to_owned(),
            _ => format!("{name}: {what}"),
        };
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(refusal(&tiny).ends_with(&expected("not a regular file")));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refusal(&tiny).ends_with(&expected("not a regular file")));
        fs::remove_dir(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(refusal(&tiny).ends_with(&expected("not a regular file")));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(refusal(&tiny).contains(if name == "model_index.json" { "no model_index.json" } else { name }));
    }
}

#[test]
fn an_index_of_shards_may_say_anything() {
    let index = format!("{UNET}.index.json");
    let tiny = Tiny::new();
    fs::remove_file(tiny.file(UNET)).unwrap();
    let many: serde_json::Map<_, _> = (0..1001).map(|i| (i.to_string(), json!(format!("{i}.safetensors")))).collect();
    for (map, expected) in [
        (json!({ "weight_map": many }), "it lists 1001 shards, not 1 to 1000"),
        (json!({ "weight_map": {} }), "it lists 0 shards, not 1 to 1000"),
        (json!({ "weight_map": [] }), "invalid type"),
        (json!({ "weight_map": { "a": 1 } }), "invalid type"),
        (json!({}), "missing field `weight_map`"),
        (json!({ "weight_map": { "a": "/dev/zero" } }), "\"/dev/zero\" is not a plain file name"),
        (json!({ "weight_map": { "a": "." } }), "\".\" is not a plain file name"),
        (json!({ "weight_map": { "a": "a\u{0}b" } }), ""),
        (json!({ "weight_map": { "a": "config.json" } }), ""),
    ] {
        tiny.write_json(&index, &map);
        let message = refusal(&tiny);
        assert!(message.starts_with("unet/") && message.contains(expected), "{map}: {message}");
    }
    grow(&tiny.file(&index));
    assert_eq!(refusal(&tiny), format!("{index}: 1073741824 bytes are too many for this file, 1048576 at most"));
}

#[test]
fn a_vocabulary_may_have_any_numbers() {
    let tiny = Tiny::new();
    let file = "tokenizer/vocab.json";
    let text = fs::read_to_string(tiny.file(file)).unwrap();
    tiny.change(file, &json!({ "unheard": u32::MAX }));
    let message = format!("{file}: it has ids up to {}, but the text encoder's table only 2014 rows", u32::MAX);
    assert_eq!(refusal(&tiny), message);
    tiny.change(file, &json!({ "unheard": u64::MAX }));
    assert!(refusal(&tiny).starts_with(&format!("{file}: invalid value")));
    tiny.write(file, r#"{"x":"#.repeat(100_000).as_bytes());
    assert!(refusal(&tiny).starts_with(file), "and no stack overflow");
    tiny.write(file, text.as_bytes());
    tiny.write("tokenizer/special_tokens_map.json", br#"{"bos_token": {"content": 5}}"#);
    assert!(refusal(&tiny).starts_with("tokenizer/special_tokens_map.json: "));
}

#[test]
fn a_list_of_words_may_be_anything() {
    let tiny = Tiny::new();
    let path = tiny.file("words.txt");
    let refusal = || Pipeline::load(tiny.path(), &Device::Cpu).err().map(|error| error.to_string()).unwrap_or_default();
    tiny.write("words.txt", b"red\n\xff");
    assert!(refusal().contains("words.txt: invalid utf-8"));
    grow(&path);
    assert!(refusal().contains("words.txt: 1073741824 bytes are too many for this file"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refusal().contains("words.txt: not a regular file"));
}

/// Fields of a request.
fn request(fields: &[(&str, &str)]) -> GenerateRequest {
    let mut request = GenerateRequest::default();
    assert!(fields.iter().all(|(field, value)| request.set_text(field, (*value).to_owned())));
    request
}

/// It was looked for in a folder of the file's name, and that it cannot be one was taken for a fault.
#[test]
fn a_single_file_draws_without_a_list_of_words() {
    let tiny = Tiny::stable_diffusion(1);
    tiny.save("one.safetensors", &joined(&tiny, 1));
    let pipeline = Pipeline::load(&tiny.file("one.safetensors"), &Device::Cpu).unwrap();
    let request = request(&[("prompt", "red"), ("steps", "1"), ("width", "64"), ("height", "64")]);
    let plan = Plan::new(&request, &pipeline.facts()).unwrap();
    assert_eq!(pipeline.generate(&plan, &mut |_| Ok(())).unwrap()[0].pixels.dimensions(), (64, 64));
}

/// What drawing says of a model in which every number of the tensor `name` in `file` is `value`.
fn drawn_with(file: &str, name: &str, value: f32) -> String {
    let tiny = Tiny::new();
    let mut tensors = tiny.tensors(file);
    let tensor = tensors[name].clone();
    tensors.insert(name.into(), Tensor::full(value, tensor.shape(), &Device::Cpu).unwrap());
    tiny.save(file, &tensors);
    let pipeline = Pipeline::load(tiny.path(), &Device::Cpu).unwrap();
    let request = request(&[("prompt", "red"), ("steps", "3"), ("sampler", "euler"), ("seed", "1")]);
    let plan = Plan::new(&request, &pipeline.facts()).unwrap();
    match pipeline.generate(&plan, &mut |_| Ok(())) {
        Err(Error::NonFinite(message)) => message,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{file}: {name} is {value}, and a picture was drawn"),
    }
}

/// A black picture would be the worst answer.
#[test]
fn weights_that_are_no_numbers_are_noticed() {
    for value in [f32::NAN, f32::INFINITY] {
        for (file, name) in [(TEXT, "text_model.final_layer_norm.weight"), (UNET, "conv_out.bias")] {
            let message = drawn_with(file, name, value);
            assert!(message.starts_with("step 1 of 3 (sigma "), "{message}");
        }
    }
    assert!(drawn_with(VAE, "decoder.conv_in.bias", f32::NAN).starts_with("the autoencoder decoded"));
}

/// The program with 3 GiB of addresses, of which it takes one for itself as it starts.
#[cfg(unix)]
fn in_little_memory(model: &Path) -> Output {
    let command = r#"ulimit -v 3145728; exec "$0" generate x --steps 1 --output /dev/null --model "$1""#;
    Command::new("sh").args(["-c", command, env!("CARGO_BIN_EXE_limner")]).arg(model).output().unwrap()
}

#[cfg(unix)]
#[test]
fn no_claim_of_a_file_costs_memory() {
    let large = 1 << 20;
    let unet = json!({ "block_out_channels": [large, large] });
    let changes = [
        ("text_encoder/config.json", json!({ "intermediate_size": large, "vocab_size": large })),
        ("text_encoder/config.json", json!({ "num_hidden_layers": large })),
        ("text_encoder/config.json", json!({ "max_position_embeddings": large })),
        ("unet/config.json", unet),
        ("unet/config.json", json!({ "layers_per_block": large })),
        ("unet/config.json", json!({ "transformer_layers_per_block": large })),
        ("vae/config.json", json!({ "block_out_channels": [1 << 16, 1 << 16] })),
        ("vae/config.json", json!({ "layers_per_block": 1 << 16 })),
        ("scheduler/scheduler_config.json", json!({ "num_train_timesteps": u32::MAX })),
    ];
    for ((file, change), hollow) in changes.iter().flat_map(|change| [(change, false), (change, true)]) {
        let tiny = if hollow { Tiny::hollow(file) } else { Tiny::new() };
        tiny.change(file, change);
        let output = in_little_memory(tiny.path());
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{change}: {message}");
        assert!(message.contains(&tiny.path().display().to_string()), "{change}: {message}");
    }
    let tiny = Tiny::new();
    for length in [99_999_999, 1 << 40, u64::MAX] {
        tiny.write(UNET, &[&u64::to_le_bytes(length)[..], b"{}"].concat());
        let output = in_little_memory(tiny.path());
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
