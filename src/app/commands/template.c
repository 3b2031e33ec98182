#include "app/commands/template.h"

static const char yaml[] =
        "# What happens here, and what Kizashi makes of it. `kizashi check` finds mistakes, with\n"
        "# their places; every key is described in docs/configuration.md.\n"
        "project: @PROJECT@\n"
        "\n"
        "events:\n"
        "  # Typed columns out of an event's props, for triggers and SQL.\n"
        "  columns:\n"
        "    item:  {from: $.item, type: string}\n"
        "    price: {from: $.price, type: float}\n"
        "  dedupe: 7d                  # the same event_id of a user again is a duplicate\n"
        "  retention: {age: 90d}\n"
        "\n"
        "# When which model is asked.\n"
        "triggers:\n"
        "  looking:\n"
        "    when: name IN ('view', 'cart')\n"
        "    debounce: 1s              # per user: the first at once, a burst as one more at its end\n"
        "\n"
        "models:\n"
        "  interest:\n"
        "    trigger: looking\n"
        "    runtime: python\n"
        "    path: models/interest     # a directory with model.py\n"
        "    features: features/interest.sql\n"
        "    history: {window: 1d, max_events: 500}\n"
        "    horizon: 10m              # what it predicts: within the next 10 minutes\n"
        "    config: {base: -3.0}      # ctx.config of the model\n"
        "\n"
        "# What follows from a prediction.\n"
        "actions:\n"
        "  offer:\n"
        "    mode: on                  # off | shadow | on\n"
        "    when: interest.score >= 0.5\n"
        "    holdout: 10%              # a stable tenth of the users gets none, to see what it brings\n"
        "    caps: [{max: 1, per: user, every: 24h}]\n"
        "    deliver:\n"
        "      web: {title: \"Free delivery today\", code: \"HELLO\"}\n"
        "      valid_for: 10m\n";

static const char sql[] =
        "-- One row about one user, as of the event that asked. `events` holds only this user's\n"
        "-- history; times are milliseconds; a column's name is the feature's name.\n"
        "SELECT\n"
        "    count(*) FILTER (WHERE name = 'view' AND ts > @now - duration('10m')) AS views,\n"
        "    count(*) FILTER (WHERE name = 'cart' AND ts > @now - duration('10m')) AS carts,\n"
        "    count(DISTINCT item)                                                  AS items,\n"
        "    max(price)                                                            AS price_max\n"
        "FROM events\n";

static const char model[] =
        "\"\"\"How interested is this visitor? A hand-made score, to be replaced by a trained one.\"\"\"\n"
        "\n"
        "import math\n"
        "\n"
        "import kizashi\n"
        "\n"
        "\n"
        "class Interest(kizashi.Model):\n"
        "    def load(self, ctx):\n"
        "        \"\"\"Once for each replica; ctx.path is this directory.\"\"\"\n"
        "        self.base = ctx.config[\"base\"]\n"
        "\n"
        "    def predict(self, batch):\n"
        "        \"\"\"One score for each row; a missing number is NaN.\"\"\"\n"
        "        return [\n"
        "            1 / (1 + math.exp(-(self.base + 0.5 * views + 2.0 * carts)))\n"
        "            for views, carts in zip(batch.column(\"views\"), batch.column(\"carts\"))\n"
        "        ]\n";

static const char test[] =
        "name: a visitor who fills a cart is more interested than one who looks\n"
        "start: 2026-03-02T09:00:00Z\n"
        "events:\n"
        "  - {at: 0s, user: ada, name: view, props: {item: lamp, price: 40.0}}\n"
        "  - {at: 30s, user: ada, name: view, props: {item: lamp, price: 40.0}}\n"
        "  - {at: 60s, user: ada, name: cart, props: {item: lamp, price: 40.0}}\n"
        "  - {at: 0s, user: bob, name: page}\n"
        "expect:\n"
        "  requests:\n"
        "    - {at: 0s, user: ada, model: interest, trigger: looking}\n"
        "    - {at: 30s, user: ada, model: interest, trigger: looking}\n"
        "    - {at: 60s, user: ada, model: interest, trigger: looking}\n"
        "  features:\n"
        "    - at: 60s\n"
        "      user: ada\n"
        "      model: interest\n"
        "      values: {views: 2, carts: 1, items: 1, price_max: 40.0}\n"
        "  predictions:\n"
        "    - {at: 0s, user: ada, model: interest, max: 0.1}\n"
        "    - {at: 60s, user: ada, model: interest, score: 0.5, within: 0.000001}\n"
        "  actions:\n"
        "    - {at: 60s, user: ada, action: offer, decision: delivered}\n";

static const char ignore[] = "# Kizashi's data\n.kizashi/\n__pycache__/\n";

const struct kz_template_file kz_template[] = {
        {"kizashi.yaml", yaml},
        {"features/interest.sql", sql},
        {"models/interest/model.py", model},
        {"tests/interest.yaml", test},
        {".gitignore", ignore},
};
const size_t kz_template_count = KZ_ARRAY_COUNT(kz_template);
