"""Which patients have coronary heart disease? In Hugging Face's Trainer: a patient is a sentence of
13 words, one for each measurement, and a small BERT reads it."""

import numpy as np
import transformers

import swarm

session = swarm.join(name="HeartScript", rounds=20, min_peers=3)
path = session.site.path
table = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=np.float32)
LOWEST = np.array([28, 0, 1, 90, 100, 0, 0, 70, 0, 0, 1, 0, 3])
STEP = np.array([5, 1, 1, 10, 25, 1, 1, 10, 1, 0.5, 1, 1, 1])
word = np.clip(np.nan_to_num((table[:, :13] - LOWEST) / STEP, nan=15), 0, 15).astype(int)
word += 16 * np.arange(13)  # the same value of another measurement is another word
patients = [
    {"input_ids": words, "labels": int(sick)}
    for words, sick in zip(word, table[:, 14], strict=True)
]
train = [patient for number, patient in enumerate(patients) if number % 3]
validation = patients[::3]

model = transformers.BertForSequenceClassification(
    transformers.BertConfig(
        vocab_size=16 * 13,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=13,
        num_labels=2,
    )
)
trainer = transformers.Trainer(
    model=model,
    callbacks=[swarm.huggingface.Swarm()],
    args=transformers.TrainingArguments(
        "trained",
        num_train_epochs=20,
        learning_rate=1e-3,
        per_device_train_batch_size=32,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=train,
    eval_dataset=validation,
    compute_metrics=lambda told: {
        "accuracy": float((told.predictions.argmax(1) == told.label_ids).mean())
    },
)
trainer.train()
print(trainer.evaluate())
