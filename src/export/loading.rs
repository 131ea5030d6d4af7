//! How an export is loaded in each engine: the last section of its card.

use std::fmt::Write as _;

use serde_json::json;

use super::containers::Container;
use super::model_card::Engine;
use crate::data::AS_IT_IS;
use crate::shell::quoted;

/// Adds the section to a card. What is named has been seen to load such a folder (`scripts/verify_in_engines.py`).
pub(super) fn loading(card: &mut String, engine: &Engine, is_rebuilt: bool) {
    card.push_str("\n## Use\n");
    let loader = if is_rebuilt {
        card.push_str(
            "\n`AutoTokenizer` of transformers 5, which other engines use, too, builds another tokenizer for this \
             family than `tokenizer.json` says: check its ids.\n",
        );
        AS_IT_IS
    } else {
        "AutoTokenizer"
    };
    let transformers = |card: &mut String, packages: &str| transformers(card, packages, loader);
    match engine {
        Engine::Transformers => {
            transformers(card, "transformers torch");
            vllm(card);
            let runner = "Runner(which=Which.Plain(model_id=\".\"))";
            mistral_rs(card, runner);
            mlx(card);
        }
        Engine::Of(Container::Gptq | Container::Awq) => {
            transformers(card, "transformers torch gptqmodel");
            vllm(card);
        }
        Engine::Of(Container::Mlx) => mlx(card),
        Engine::CompressedTensors => {
            transformers(card, "transformers torch compressed-tensors");
            vllm(card);
        }
        Engine::LlamaCpp { file } => {
            let _ = write!(
                card,
                "\nWith llama.cpp:\n\n\
                 ```sh\n\
                 llama-cli -m {} -p \"It was\" -n 40 -no-cnv\n\
                 ```\n",
                quoted(file)
            );
            let file = json!(file); // a JSON string is one of Python
            let which = format!("Which.GGUF(quantized_model_id=\".\", quantized_filename={file})");
            mistral_rs(card, &format!("Runner(which={which})"));
        }
    }
}

fn transformers(card: &mut String, packages: &str, loader: &str) {
    let _ = write!(
        card,
        "\nWith transformers (`pip install {packages}`):\n\n\
         ```python\n\
         from transformers import AutoModelForCausalLM, {loader}\n\n\
         tokenizer = {loader}.from_pretrained(\".\")\n\
         model = AutoModelForCausalLM.from_pretrained(\".\")\n\
         inputs = tokenizer(\"It was\", return_tensors=\"pt\")\n\
         print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))\n\
         ```\n"
    );
}

fn vllm(card: &mut String) {
    card.push_str("\nWith vLLM:\n\n```sh\nvllm serve .\n```\n");
}

fn mlx(card: &mut String) {
    card.push_str(
        "\nWith MLX (`pip install mlx-lm`):\n\n\
         ```sh\n\
         mlx_lm.generate --model . --prompt \"It was\" --max-tokens 40\n\
         ```\n",
    );
}

fn mistral_rs(card: &mut String, runner: &str) {
    let _ = write!(
        card,
        "\nWith mistral.rs (`pip install mistralrs`):\n\n\
         ```python\n\
         from mistralrs import CompletionRequest, Runner, Which\n\n\
         runner = {runner}\n\
         request = CompletionRequest(model=\"default\", prompt=\"It was\", max_tokens=40)\n\
         print(runner.send_completion_request(request).choices[0].text)\n\
         ```\n"
    );
}
