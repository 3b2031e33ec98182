/* From what a model answered to what is kept of it.
 *
 *   output in kizashi.yaml   answer          output (JSON)                            score
 *   -                        number          the number                               the number
 *   -                        m numbers       the array                                none
 *   -                        dict            the object                               its "score", if a number
 *   select: i                m numbers       the array (one number: the number)       number i
 *   classes: [a, b, ...]     m numbers       {"classes":{"a":p,...},"class":"b"}      of two classes the second's p,
 *                                                                                     of more none
 *   embedding                m numbers       the array                                none
 *
 * Of two classes the second is the positive one by convention (scikit-learn's predict_proba[:, 1]);
 * of more none is special, and rules look into the output. A NaN, where allowed, is null, and no
 * score.
 */
#include "infer/infer_int.h"

#include <math.h>

#include "codec/json.h"
#include "codec/json_out.h"

static void set_score(struct kz_infer_result *result, double score)
{
    result->has_score = !isnan(score);
    result->score = result->has_score ? score : 0;
}

static void put_classes(
        const struct kz_model_def *def, const double *values, struct kz_json_out *json)
{
    size_t best = 0;

    kz_json_out_object(json);
    kz_json_out_key(json, "classes");
    kz_json_out_object(json);
    for (size_t i = 0; i < def->output.class_count; i++) {
        kz_json_out_kv_f64(json, def->output.classes[i], values[i]);
        if (values[i] > values[best] || isnan(values[best]))
            best = i;
    }
    kz_json_out_object_end(json);
    kz_json_out_kv_cstr(json, "class", isnan(values[best]) ? NULL : def->output.classes[best]);
    kz_json_out_object_end(json);
}

static void put_array(const double *values, size_t count, struct kz_json_out *json)
{
    kz_json_out_array(json);
    for (size_t i = 0; i < count; i++)
        kz_json_out_f64(json, values[i]);
    kz_json_out_array_end(json);
}

static void set_dict(struct kz_str text, struct kz_infer_result *result)
{
    struct kz_json_value score = kz_json_get(kz_json_trusted(text), "score");
    double number;

    kz_json_compact(text, &result->output);
    if ((score.kind == KZ_JSON_INT || score.kind == KZ_JSON_FLOAT) &&
            kz_json_f64(score, &number, NULL) == KZ_OK)
        set_score(result, number);
}

void kz_output_set(const struct kz_model_def *def, const struct kz_batch_row *answer,
        struct kz_infer_result *result)
{
    struct kz_json_out json;

    kz_buf_clear(&result->output);
    json = kz_json_out(&result->output);
    result->has_score = false;
    if (answer->json.size) {
        set_dict(answer->json, result);
        return;
    }
    switch (def->output.kind) {
    case KZ_OUTPUT_SELECT:
        set_score(result, answer->values[def->output.select]);
        break;
    case KZ_OUTPUT_CLASSES:
        if (answer->value_count == 2)
            set_score(result, answer->values[1]);
        put_classes(def, answer->values, &json);
        return;
    case KZ_OUTPUT_PLAIN:
        if (answer->value_count == 1)
            set_score(result, answer->values[0]);
        break;
    case KZ_OUTPUT_EMBEDDING:
        break;
    }
    if (answer->value_count == 1 && def->output.kind != KZ_OUTPUT_EMBEDDING)
        kz_json_out_f64(&json, answer->values[0]);
    else
        put_array(answer->values, answer->value_count, &json);
}
