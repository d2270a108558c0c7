from prepared import data as data
