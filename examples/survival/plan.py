"""Six regions learn how long patients with breast cancer live, from what their clinics recorded.

Most patients were still alive when last seen. The model gives a risk, and learns from who died
before whom (Cox, J R Stat Soc B 34:187-220, 1972); no patient is compared with one of another site.
"""

import torch
from torch import nn

import swarm

RECORDED = [
    "age_at_index", "ethnicity_not hispanic or latino", "ethnicity_not reported", "race_asian",
    "race_black or african american", "race_not reported", "race_white", "ajcc_pathologic_m_MX",
    "ajcc_pathologic_n_N0 (i-)", "ajcc_pathologic_n_N1", "ajcc_pathologic_n_N1a",
    "ajcc_pathologic_n_N2", "ajcc_pathologic_n_N2a", "ajcc_pathologic_stage_Stage IA",
    "ajcc_pathologic_stage_Stage IIA", "ajcc_pathologic_stage_Stage IIB",
    "ajcc_pathologic_stage_Stage IIIA", "ajcc_pathologic_stage_Stage IIIC", "ajcc_pathologic_t_T1c",
    "ajcc_pathologic_t_T2", "ajcc_pathologic_t_T3", "ajcc_staging_system_edition_5th",
    "ajcc_staging_system_edition_6th", "ajcc_staging_system_edition_7th", "icd_10_code_C50.9",
    "morphology_8500/3", "morphology_8520/3",
    "primary_diagnosis_Infiltrating duct carcinoma, NOS",
    "primary_diagnosis_Lobular carcinoma, NOS", "prior_malignancy_yes",
    "synchronous_malignancy_Not Reported", "treatment_or_therapy_not reported",
    "treatment_or_therapy_yes", "tumor_stage_stage i", "tumor_stage_stage ia",
    "tumor_stage_stage iia", "tumor_stage_stage iib", "tumor_stage_stage iiia",
    "tumor_stage_stage iiic",
]  # fmt: skip
TEN_YEARS = 3652.5  # days


class Survival(swarm.Plan):
    rounds = 20
    min_peers = 3
    batch_size = 1000  # all patients of a site, who are compared with each other

    # Chosen by ../tune.py, which reads training rows only.
    epochs = 1
    learning_rate = 0.1
    hidden: int = 0  # 16, say, makes it a deep one

    licence = "GDC data-use policy"

    def model(self):
        if self.hidden:
            first = nn.Linear(len(RECORDED), self.hidden)
            return nn.Sequential(first, nn.Tanh(), nn.Linear(self.hidden, 1, bias=False))
        model = nn.Linear(len(RECORDED), 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, weight_decay=0.01)

    def inputs(self, table):
        return table.numbers(*RECORDED)

    def data(self, site):
        table = self.table(site.path)
        x = self.inputs(table)
        days, died = table.numbers("time_days", "event").T

        rest, test = swarm.split(died, [1 / 3], seed=site.seed)
        train, validation = (rest[part] for part in swarm.split(died[rest], [0.15], site.seed))
        return swarm.Data(*((x[p], days[p], died[p]) for p in (train, validation, test)))

    def statistics(self, data):
        return swarm.moments(data.train[0])

    def prepare(self, data, statistics):
        def ready(x, *outcome):  # who predicts has none
            return swarm.standardise(x, statistics), *outcome

        return data.map(ready)

    def loss(self, model, batch):
        x, days, died = batch
        order = days.argsort(descending=True)
        risk = model(x)[order, 0]
        at_risk = risk.logcumsumexp(dim=0)  # of all who were seen as long, or longer
        # By patients and not by deaths: sites are weighted by patients, so that the mean of their
        # losses is the likelihood of all deaths, each within its site.
        return (died[order] * (at_risk - risk)).mean()

    def predict(self, model, x):
        return {"risk": model(x)[:, 0]}

    def metrics(self, model, data):
        x, days, died = data
        risk = model(x)[:, 0]
        return {
            "c_index": swarm.metrics.concordance(days, died, risk, until=TEN_YEARS),
            "loss": float(self.loss(model, data)),
        }
