/* What a model's worker sends: the first byte chooses the message, the second the declared output and
 * the rows asked for. */
#include "runtimes/python/python_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kz_model_def model = {.name = "m"};
    struct wire_result result = {0};
    struct wire_failure failure;
    struct wire_header header;
    struct kz_str payload;
    bool can_fork;

    if (size < 2)
        return 0;
    payload = kz_str_n(data + 2, size - 2);
    model.output.kind = (enum kz_output_kind)(data[1] & 3);
    model.output.class_count = model.output.embedding_size = 2;
    model.output.allow_nan = data[1] & 4;
    switch (data[0] % 5) {
    case 0:
        if (payload.size >= WIRE_HEADER_BYTES)
            (void)kz_py_header(payload.ptr, &header, NULL); /* refusing is as good */
        break;
    case 1:
        (void)kz_py_get_hello(payload, NULL);
        break;
    case 2:
        (void)kz_py_get_ready(payload, &can_fork, NULL);
        break;
    case 3:
        (void)kz_py_get_failure(payload, &failure, NULL);
        break;
    default:
        (void)kz_py_get_result(payload, &model, data[1] >> 3, &result, NULL);
        kz_py_result_done(&result);
    }
    return 0;
}
