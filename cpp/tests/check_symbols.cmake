# What leaves the library is what the list says: cmake -DNM= -DLIBRARY= -DLIST= -P check_symbols.cmake
execute_process(COMMAND "${NM}" -D --defined-only "${LIBRARY}"
                OUTPUT_VARIABLE table COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]+" lines "${table}")
set(found "")
foreach(line IN LISTS lines)
  # The version itself is a symbol of kind A.
  if(line MATCHES " ([A-Za-z]) ([A-Za-z0-9_]+)" AND NOT CMAKE_MATCH_1 STREQUAL "A")
    list(APPEND found "${CMAKE_MATCH_2}")
  endif()
endforeach()
file(STRINGS "${LIST}" wanted)
list(SORT found)
list(SORT wanted)
if(NOT found STREQUAL wanted)
  message(FATAL_ERROR "exported: ${found}\nexpected: ${wanted}\n"
                      "A symbol that goes breaks programs: raise AUTOSAM_ABI_VERSION.")
endif()
