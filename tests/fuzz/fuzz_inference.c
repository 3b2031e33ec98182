/* What a model's HTTP server answers. The first byte chooses what the model's output should be, the second
 * how many rows were asked for; the rest comes in two pieces as HTTP, and once as a bare body. */
#include "runtimes/http/http_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_body(struct kz_str body, const struct kz_model_def *model, size_t rows)
{
    struct oip_answer answer;
    struct kz_buf reason = {0};
    const char *code = NULL;

    kz_oip_answer_init(&answer);
    if (kz_oip_get_answer(body, model, rows, &answer, &code, NULL) == KZ_OK) {
        KZ_BUG_ON(answer.row_count != rows);
        for (size_t i = 0; i < rows; i++)
            KZ_BUG_ON(answer.rows[i].state == KZ_ROW_OK &&
                      !answer.rows[i].json.size == !answer.rows[i].value_count);
    } else {
        KZ_BUG_ON(!code);
    }
    kz_oip_answer_done(&answer);
    kz_oip_put_error(body, &reason);
    KZ_BUG_ON(reason.size > 2000);
    kz_buf_done(&reason);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kz_model_def model = {.name = "m"};
    struct exchange x = {0};
    struct kz_str text;
    size_t half;

    if (size < 2)
        return 0;
    text = kz_str_n(data + 2, size - 2);
    half = text.size / 2;
    model.output.kind = (enum kz_output_kind)(data[0] & 3);
    model.output.class_count = model.output.embedding_size = 2;
    model.output.allow_nan = data[0] & 4;
    read_body(text, &model, data[1] & 7);
    kz_exchange_begin(&x);
    if (kz_exchange_take(&x, kz_str_n(text.ptr, half), NULL) == KZ_OK &&
            kz_exchange_take(&x, kz_str_n(text.ptr + half, text.size - half), NULL) == KZ_OK &&
            kz_exchange_end(&x, NULL) == KZ_OK) {
        KZ_BUG_ON(!x.complete || x.body.size > text.size);
        read_body(kz_buf_view(&x.body), &model, data[1] & 7);
    }
    kz_exchange_done(&x);
    return 0;
}
