# Halves the time that llama.cpp takes to compile: its hundred and fifty model files, each of which reads the same heavy
# headers, are compiled a dozen at a time. Only the `llama` target; ggml's processor kernels stay as they are.
if(NOT HONED_UNITY)
  set(HONED_UNITY ON)
  function(honed_unity)
    if(TARGET llama)
      set_target_properties(llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
    endif()
  endfunction()
  cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL honed_unity)
endif()
